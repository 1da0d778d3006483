/* A service for tests. It runs under the name in its first argument and does what stands in
   HKLM\SOFTWARE\WardringTests\<name>: Refuse (a code of its own) makes it stop right after its
   start, SlowMs lets it take its time. CrashMs lets it die once it has run that long, in the way in
   which Windows books a process that is gone (Wine leaves it running in the books): once, or, where
   Flap is set, again and again, and then a process of its own starts it as a recovery action does. */
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

static void start_again(void) {
    WCHAR line[MAX_PATH + 80];
    STARTUPINFOW how = {sizeof how};
    PROCESS_INFORMATION process;
    line[0] = L'"';
    lstrcpyW(line + 1 + GetModuleFileNameW(NULL, line + 1, MAX_PATH), L"\" ");
    lstrcatW(line, name);
    lstrcatW(line, L" again");
    CreateProcessW(NULL, line, NULL, NULL, FALSE, DETACHED_PROCESS, NULL, NULL, &how, &process);
}

/* The recovery action. */
static int recover(void) {
    SC_HANDLE service = OpenServiceW(OpenSCManagerW(NULL, NULL, SC_MANAGER_CONNECT), name, SERVICE_START);
    for (int tries = 0; tries < 100 && !StartServiceW(service, 0, NULL); tries++) Sleep(50);
    return 0;
}

static void run(void) {
    DWORD began = GetTickCount(), crash = 0;
    while (WaitForSingleObject(stop_event, 50) == WAIT_TIMEOUT) {
        crash = setting(L"CrashMs");
        if (!crash || GetTickCount() - began < crash) continue;
        if (setting(L"Flap")) {
            start_again();
        } else {
            WCHAR key[128] = L"SOFTWARE\\WardringTests\\";
            lstrcatW(key, name);
            RegDeleteKeyValueW(HKEY_LOCAL_MACHINE, key, L"CrashMs");
        }
        SERVICE_STATUS status = {SERVICE_WIN32_OWN_PROCESS, SERVICE_STOPPED, 0, ERROR_PROCESS_ABORTED};
        SetServiceStatus(handle, &status);
        ExitProcess(1);
    }
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
    run();
    report(SERVICE_STOPPED, 0);
}

int main(int count, char **arguments) {
    MultiByteToWideChar(CP_ACP, 0, count > 1 ? arguments[1] : "Test", -1, name, 64);
    if (count > 2) return recover();
    stop_event = CreateEventW(NULL, TRUE, FALSE, NULL);
    SERVICE_TABLE_ENTRYW table[] = {{name, service_main}, {NULL, NULL}};
    return StartServiceCtrlDispatcherW(table) ? 0 : (int)GetLastError();
}
