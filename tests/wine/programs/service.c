/* A service for tests. It runs under the name in its first argument and does what stands in
   HKLM\SOFTWARE\WardringTests\<name>: Refuse (a code of its own) makes it stop right after its
   start, SlowMs lets it take its time. */
#include <windows.h>

static WCHAR name[64];
static SERVICE_STATUS_HANDLE handle;
static HANDLE stop_event;

static DWORD setting(const WCHAR *value) {
    WCHAR key[128] = L"SOFTWARE\\WardringTests\\";
    DWORD number = 0, size = sizeof number;
    lstrcatW(key, name);
    RegGetValueW(HKEY_LOCAL_MACHINE, key, value, RRF_RT_REG_DWORD, NULL, &number, &size);
    return number;
}

static void report(DWORD state, DWORD own_code) {
    SERVICE_STATUS status = {0};
    status.dwServiceType = SERVICE_WIN32_OWN_PROCESS;
    status.dwCurrentState = state;
    status.dwControlsAccepted = state == SERVICE_RUNNING ? SERVICE_ACCEPT_STOP : 0;
    status.dwWin32ExitCode = own_code ? ERROR_SERVICE_SPECIFIC_ERROR : 0;
    status.dwServiceSpecificExitCode = own_code;
    status.dwWaitHint = 1000;
    SetServiceStatus(handle, &status);
}

static DWORD WINAPI control(DWORD code, DWORD type, void *data, void *context) {
    if (code == SERVICE_CONTROL_STOP) {
        report(SERVICE_STOP_PENDING, 0);
        SetEvent(stop_event);
        return NO_ERROR;
    }
    return code == SERVICE_CONTROL_INTERROGATE ? NO_ERROR : ERROR_CALL_NOT_IMPLEMENTED;
}

static void WINAPI service_main(DWORD count, WCHAR **arguments) {
    handle = RegisterServiceCtrlHandlerExW(name, control, NULL);
    report(SERVICE_START_PENDING, 0);
    Sleep(setting(L"SlowMs"));
    if (setting(L"Refuse")) {
        report(SERVICE_STOPPED, setting(L"Refuse"));
        return;
    }
    report(SERVICE_RUNNING, 0);
    WaitForSingleObject(stop_event, INFINITE);
    report(SERVICE_STOPPED, 0);
}

int main(int count, char **arguments) {
    MultiByteToWideChar(CP_ACP, 0, count > 1 ? arguments[1] : "Test", -1, name, 64);
    stop_event = CreateEventW(NULL, TRUE, FALSE, NULL);
    SERVICE_TABLE_ENTRYW table[] = {{name, service_main}, {NULL, NULL}};
    return StartServiceCtrlDispatcherW(table) ? 0 : (int)GetLastError();
}
