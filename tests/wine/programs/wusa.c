/* A standalone installer for tests. What it does stands in HKLM\SOFTWARE\WardringTests\Wusa: Code is
   its exit code (3010 without it), TakesMs how long it takes; Package is a package of Windows that it
   brings, up to a restart, if it ends well. Every call is added to C:\wusa.log. */
#include <stdio.h>
#include <windows.h>

#define CBS "SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\Component Based Servicing"
#define SETTINGS "SOFTWARE\\WardringTests\\Wusa"

static DWORD number(const char *value, DWORD otherwise) {
    DWORD number = otherwise, size = sizeof number;
    RegGetValueA(HKEY_LOCAL_MACHINE, SETTINGS, value, RRF_RT_REG_DWORD, NULL, &number, &size);
    return number;
}

static void bring(void) {
    char name[512], key[1024];
    DWORD size = sizeof name, state = 0x60, shown = 1;
    HKEY package;
    if (RegGetValueA(HKEY_LOCAL_MACHINE, SETTINGS, "Package", RRF_RT_REG_SZ, NULL, name, &size)) return;
    snprintf(key, sizeof key, CBS "\\Packages\\%s", name);
    if (RegCreateKeyExA(HKEY_LOCAL_MACHINE, key, 0, NULL, 0, KEY_WRITE, NULL, &package, NULL)) return;
    RegSetValueExA(package, "CurrentState", 0, REG_DWORD, (BYTE *)&state, sizeof state);
    RegSetValueExA(package, "Visibility", 0, REG_DWORD, (BYTE *)&shown, sizeof shown);
}

int main(int count, char **arguments) {
    // Before anybody reads that it runs, and changes them for the next one.
    DWORD code = number("Code", 3010), takes = number("TakesMs", 0);
    FILE *log = fopen("C:\\wusa.log", "a");
    for (int i = 1; i < count; i++) fprintf(log, "%s ", arguments[i]);
    fprintf(log, "\n");
    fclose(log);
    Sleep(takes);
    if (code == 0 || code == 3010) bring();
    return (int)code;
}
