/* The device's neighbours for tests, in the place of Wine's list of this computer's own: one adapter whose
   default gateway is 198.51.100.1 (RFC 5737), which answers an echo request while
   HKLM\SOFTWARE\WardringTests\Network holds Answers. Ports that are listened on are not told. */
#include <winsock2.h>
#include <ws2ipdef.h>
#include <windows.h>
#include <iptypes.h>
#include <ipexport.h>

#define ROUTER 0x016433C6 /* 198.51.100.1 in the order of the network */

struct adapter {
    IP_ADAPTER_ADDRESSES addresses;
    IP_ADAPTER_GATEWAY_ADDRESS gateway;
    struct sockaddr_in router;
};

ULONG WINAPI GetAdaptersAddresses(ULONG family, ULONG flags, void *reserved, IP_ADAPTER_ADDRESSES *buffer,
                                  ULONG *size) {
    struct adapter *adapter = (struct adapter *)buffer;
    if (*size < sizeof *adapter || !buffer) {
        *size = sizeof *adapter;
        return ERROR_BUFFER_OVERFLOW;
    }
    ZeroMemory(adapter, sizeof *adapter);
    adapter->addresses.Length = sizeof adapter->addresses;
    adapter->addresses.OperStatus = IfOperStatusUp;
    adapter->addresses.FirstGatewayAddress = (void *)&adapter->gateway;
    adapter->gateway.Length = sizeof adapter->gateway;
    adapter->gateway.Address.lpSockaddr = (struct sockaddr *)&adapter->router;
    adapter->gateway.Address.iSockaddrLength = sizeof adapter->router;
    adapter->router.sin_family = AF_INET;
    adapter->router.sin_addr.s_addr = ROUTER;
    return NO_ERROR;
}

HANDLE WINAPI IcmpCreateFile(void) {
    return (HANDLE)1;
}

BOOL WINAPI IcmpCloseHandle(HANDLE handle) {
    return TRUE;
}

DWORD WINAPI IcmpSendEcho(HANDLE handle, IPAddr to, void *data, WORD length, void *options, void *reply,
                          DWORD size, DWORD timeout) {
    ICMP_ECHO_REPLY *echo = reply;
    DWORD answers = 0, bytes = sizeof answers;
    RegGetValueW(HKEY_LOCAL_MACHINE, L"SOFTWARE\\WardringTests\\Network", L"Answers", RRF_RT_REG_DWORD,
                 NULL, &answers, &bytes);
    if (to != ROUTER || !answers) {
        SetLastError(11010 /* IP_REQ_TIMED_OUT */);
        return 0;
    }
    ZeroMemory(echo, sizeof *echo);
    echo->Address = ROUTER;
    return 1;
}

DWORD WINAPI GetExtendedTcpTable(void *table, DWORD *size, BOOL order, ULONG family, int class,
                                 ULONG reserved) {
    return ERROR_NOT_SUPPORTED;
}
