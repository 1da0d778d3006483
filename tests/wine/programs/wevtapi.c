/* An event log for tests, in the place of Wine's, which can be written and not read. The log <name> is
   the file C:\events\<name>.xml: one event a line, oldest first, which a test writes. A query gets all of
   them, newest first; whoever asks tells by provider and number what concerns him. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

struct found {
    char *text;
    char **lines;
    int left;
};

/* A handle is either of these; the first word tells which. */
struct handle {
    int is_query;
    struct found found;
    const char *line;
};

static struct handle *fail(DWORD code) {
    SetLastError(code);
    return NULL;
}

void *WINAPI EvtQuery(void *session, const WCHAR *path, const WCHAR *query, DWORD flags) {
    WCHAR file[MAX_PATH] = L"C:\\events\\";
    FILE *log;
    long size;
    struct handle *handle;
    if (lstrlenW(path) > 64) return fail(ERROR_INVALID_PARAMETER);
    lstrcatW(file, path);
    lstrcatW(file, L".xml");
    if (!(log = _wfopen(file, L"rb"))) return fail(15007 /* ERROR_EVT_CHANNEL_NOT_FOUND */);
    fseek(log, 0, SEEK_END);
    size = ftell(log);
    rewind(log);
    handle = calloc(1, sizeof *handle);
    handle->is_query = 1;
    handle->found.text = calloc(1, size + 1);
    size = (long)fread(handle->found.text, 1, size, log);
    fclose(log);
    handle->found.lines = calloc(size + 1, sizeof(char *));
    for (char *line = strtok(handle->found.text, "\n"); line; line = strtok(NULL, "\n"))
        handle->found.lines[handle->found.left++] = line;
    return handle;
}

BOOL WINAPI EvtNext(void *query, DWORD count, void **events, DWORD timeout, DWORD flags, DWORD *returned) {
    struct handle *handle = query, *event;
    *returned = 0;
    if (!handle->found.left) return fail(ERROR_NO_MORE_ITEMS) != NULL;
    event = calloc(1, sizeof *event);
    event->line = _strdup(handle->found.lines[--handle->found.left]);
    *events = event;
    *returned = 1;
    return TRUE;
}

BOOL WINAPI EvtRender(void *context, void *event, DWORD flags, DWORD size, void *buffer, DWORD *used,
                      DWORD *properties) {
    const char *line = ((struct handle *)event)->line;
    int length = MultiByteToWideChar(CP_UTF8, 0, line, -1, NULL, 0);
    *used = length * sizeof(WCHAR);
    *properties = 0;
    if (*used > size) return fail(ERROR_INSUFFICIENT_BUFFER) != NULL;
    return MultiByteToWideChar(CP_UTF8, 0, line, -1, buffer, length) == length;
}

BOOL WINAPI EvtClose(void *object) {
    struct handle *handle = object;
    if (handle->is_query) {
        free(handle->found.lines);
        free(handle->found.text);
    } else {
        free((char *)handle->line);
    }
    free(handle);
    return TRUE;
}
