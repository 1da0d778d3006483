/* A DISM for tests: its packages are those of the registry. What it does beside removing a package
   stands in HKLM\SOFTWARE\WardringTests\Dism: Fail is an exit code, FailLate one of a removal that is
   done all the same, Lie makes it succeed without doing anything, TakesMs is how long a removal takes, also
   when it is changed meanwhile, Store is the state of the component store (1 repairable, 2 damaged), Garble prints other things around its table. Every call is added to C:\dism.log. */
#include <stdio.h>
#include <string.h>
#include <windows.h>

#define CBS "SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\Component Based Servicing"

static DWORD number(const char *key, const char *value, DWORD otherwise) {
    DWORD number = otherwise, size = sizeof number;
    RegGetValueA(HKEY_LOCAL_MACHINE, key, value, RRF_RT_REG_DWORD, NULL, &number, &size);
    return number;
}

static DWORD setting(const char *value) {
    return number("SOFTWARE\\WardringTests\\Dism", value, 0);
}

static const char *word(DWORD state) {
    switch (state) {
    case 0x05: return "Uninstall Pending";
    case 0x40: return "Staged";
    case 0x50: return "Superseded";
    case 0x60: return "Install Pending";
    default: return "Installed";
    }
}

static int list(void) {
    HKEY packages;
    char name[512], key[1024];
    DWORD length = sizeof name;
    if (RegOpenKeyExA(HKEY_LOCAL_MACHINE, CBS "\\Packages", 0, KEY_READ, &packages)) return 1;
    if (setting("Garble")) printf("[====   12.3%%   ]\r\n\xFC\x84 | ~~~~ | Installed\r\n| | |\r\n");
    printf("Package Identity | State | Release Type | Install Time\r\n");
    printf("---------------- | ----- | ------------ | ------------\r\n");
    for (DWORD i = 0; !RegEnumKeyExA(packages, i, name, &length, NULL, NULL, NULL, NULL); i++) {
        snprintf(key, sizeof key, CBS "\\Packages\\%s", name);
        printf("%s | %s | Update | 1/1/2026\r\n", name, word(number(key, "CurrentState", 0)));
        length = sizeof name;
    }
    printf("\r\nThe operation completed successfully.\r\n");
    return 0;
}

static int refuse(DWORD code) {
    printf("\r\nError: 0x%08lx\r\n", code);
    return (int)code;
}

static int drop(const char *name) {
    char key[1024];
    HKEY package, pending;
    DWORD state = 0x05;
    snprintf(key, sizeof key, CBS "\\Packages\\%s", name);
    for (DWORD took = 0; took < setting("TakesMs"); took += 50) Sleep(50);
    if (setting("Fail")) return refuse(setting("Fail"));
    if (setting("Lie")) return 0;
    if (RegOpenKeyExA(HKEY_LOCAL_MACHINE, key, 0, KEY_WRITE, &package)) return refuse(0x800F0805);
    if (number(key, "CurrentState", 0) == 0x80) return refuse(0x800F0825);
    RegSetValueExA(package, "CurrentState", 0, REG_DWORD, (BYTE *)&state, sizeof state);
    RegCreateKeyExA(HKEY_LOCAL_MACHINE, CBS "\\RebootPending", 0, NULL, REG_OPTION_VOLATILE,
                    KEY_WRITE, NULL, &pending, NULL);
    if (setting("FailLate")) return refuse(setting("FailLate"));
    return 3010;
}

static int health(void) {
    static const char *said[] = {"No component store corruption detected.",
                                 "The component store is repairable.",
                                 "The component store cannot be repaired."};
    DWORD state = setting("Store");
    if (setting("Fail")) return refuse(setting("Fail"));
    printf("\r\n%s\r\nThe operation completed successfully.\r\n", said[state < 3 ? state : 0]);
    return 0;
}

int main(int count, char **arguments) {
    const char *name = NULL;
    int lists = 0, removes = 0, checks = 0, is_english = 0, is_online = 0;
    FILE *log = fopen("C:\\dism.log", "a");
    for (int i = 1; i < count; i++) {
        fprintf(log, "%s ", arguments[i]);
        lists |= !strcmp(arguments[i], "/Get-Packages");
        checks |= !strcmp(arguments[i], "/CheckHealth");
        removes |= !strcmp(arguments[i], "/Remove-Package");
        is_english |= !strcmp(arguments[i], "/English");
        is_online |= !strcmp(arguments[i], "/Online");
        if (!strncmp(arguments[i], "/PackageName:", 13)) name = arguments[i] + 13;
    }
    fprintf(log, "\n");
    fclose(log);
    if (checks && is_english && is_online && !lists && !removes && !name) return health();
    if (!is_english || !is_online || lists == removes || removes != (name != NULL)) return 87;
    return lists ? list() : drop(name);
}
