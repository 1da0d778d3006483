/* Ends the program that writes a journal at chosen moments: preloaded into Wine, it sees in that program
   how the new file is flushed, and in Wine's server, which renames for all programs, how it takes the
   journal's place. The file $WARDRING_TESTS_KILLER begins with numbers of 64 bits: whole writes so far; the
   first write to end the program at (0: none) and the moment of it (1 flushed, 2 between the two renames,
   3 in place); the process that flushed last; how often one was ended; and whether one is ended also
   wherever a job can stand: once when the flushed journal tells of that, and once when the journal in
   place does. A text follows, of where and when that was done ("Installing/3 Rebooting/1 "). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FLUSHED = 1, BETWEEN = 2, IN_PLACE = 3 };

struct page {
    volatile uint64_t writes, at, moment, writer, kills, by_place;
    char places[1000];
};

static int (*real_fsync)(int);
static int (*real_rename)(const char *, const char *);
static struct page *page;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("WARDRING_TESTS_KILLER");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *shared = file < 0 ? MAP_FAILED
                            : mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_rename = dlsym(RTLD_NEXT, "rename");
    if (shared != MAP_FAILED) page = shared;
}

static int is_named(const char *path, const char *name) {
    size_t length = strlen(path), tail = strlen(name);
    return length >= tail && !strcmp(path + length - tail, name);
}

/* Whether the job in a journal stands somewhere where nobody was ended at this moment yet. */
static int is_new_place(const char *journal, uint64_t moment) {
    static const char tag[] = "\"phase\":\"";
    static char text[1 << 20];
    char place[64];
    FILE *file = page->by_place ? fopen(journal, "r") : NULL;
    if (!file) return 0;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    const char *begin = strstr(text, tag);
    if (!begin) return 0;
    begin += sizeof tag - 1;
    snprintf(place, sizeof place, "%.*s/%d ", (int)strcspn(begin, "\""), begin, (int)moment);
    if (strstr(page->places, place)) return 0;
    strncat(page->places, place, sizeof page->places - strlen(page->places) - 1);
    return 1;
}

/* Ends the program, which waits for what its thread asked for, and gets no answer any more. */
static void maybe_end(uint64_t write, uint64_t moment, const char *journal) {
    int is_due = page->at && write >= page->at && page->moment == moment;
    if (!page->writer || (!is_due && !is_new_place(journal, moment))) return;
    page->at = 0;
    page->kills++;
    kill((pid_t)page->writer, SIGKILL);
}

int fsync(int file) {
    char link[64], path[4096];
    if (!real_fsync) begin();
    int failed = real_fsync(file);
    if (!page || failed) return failed;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return failed;
    path[length] = 0;
    if (is_named(path, "/journal.new")) {
        page->writer = (uint64_t)getpid();
        maybe_end(page->writes + 1, FLUSHED, path);
    }
    return failed;
}

int rename(const char *from, const char *to) {
    if (!real_rename) begin();
    int failed = real_rename(from, to);
    if (!page) return failed;
    if (is_named(from, "/journal") && is_named(to, "/journal.prev")) {
        maybe_end(page->writes + 1, BETWEEN, "");
    } else if (!failed && is_named(from, "/journal.new") && is_named(to, "/journal")) {
        page->writes++;
        maybe_end(page->writes, IN_PLACE, to);
    }
    return failed;
}
