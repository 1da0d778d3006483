/*
 * Wine before 8.13 has no bcryptprimitives.dll, which every Rust program imports for its random
 * numbers. This one export stands in for it, in the tests' own prefixes only; it is never shipped.
 */
#include <windows.h>

/* RtlGenRandom, by the name advapi32 exports it under. */
BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length);

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE buffer, SIZE_T length)
{
    const SIZE_T most = 0x10000;

    while (length > 0) {
        SIZE_T part = length < most ? length : most;
        if (!SystemFunction036(buffer, (ULONG)part))
            return FALSE;
        buffer += part;
        length -= part;
    }
    return TRUE;
}
