/* A program in the place of a new agent that does not do: what it does when it is tried is the name of
 * a file beside it in C:\wardring, `dies` or `silent`. It says a version, as every agent does. */
#include <stdio.h>
#include <string.h>
#include <windows.h>

int main(int count, char **words)
{
    if (count > 1 && !strcmp(words[1], "version")) {
        puts("9.9.9");
        return 0;
    }
    if (count > 1 && !strcmp(words[1], "trial")
        && GetFileAttributesA("C:\\wardring\\silent") != INVALID_FILE_ATTRIBUTES) {
        puts("running");
        fflush(stdout);
        /* Until whoever tries it closes its standard input. */
        while (getchar() != EOF) {
        }
        return 0;
    }
    return 3;
}
