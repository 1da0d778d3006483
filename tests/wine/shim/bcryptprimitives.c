/*
 * Wine before 8.13 has no bcryptprimitives.dll, which every Rust program imports for its random
 * numbers. This one export stands in for it, in the tests' own prefixes only; it is never shipped.
 *
 * It also has Wine make its window classes before the program has a second thread: Wine makes them with
 * the first window of a process, and two threads stand still for ever where one of them makes them, for
 * which it needs the loader's lock, while the other one loads a library, and waits for them under that lock.
 */
#include <windows.h>

/* RtlGenRandom, by the name advapi32 exports it under. */
BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length);

BOOL WINAPI DllMain(HINSTANCE library, DWORD why, LPVOID reserved)
{
    (void)reserved;
    if (why == DLL_PROCESS_ATTACH) {
        DisableThreadLibraryCalls(library);
        GetDesktopWindow();
    }
    return TRUE;
}

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
