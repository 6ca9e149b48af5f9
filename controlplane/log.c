#include "controlplane/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "maroon/error.h"

#define LINE_BYTES 2048
#define PLACES 256 /* places of the program whose rate is kept */
#define BURST 10   /* lines of one place that pass */
#define BURST_NS UINT64_C(10000000000)
#define QUOTES 8
#define QUOTE_BYTES 640 /* the longest sentence, the journal's, with its escapes */

static const char *const level_names[] = {"debug", "info", "warning", "error"};
static _Atomic int level_min = MRN_LOG_INFO;

void mrn_log_set_level(enum mrn_log_level level) {
    atomic_store(&level_min, (int)level);
}

int mrn_log_set_level_by_name(const char *name) {
    if (strcmp(name, "warn") == 0)
        name = "warning";
    for (int i = MRN_LOG_DEBUG; i <= MRN_LOG_ERROR; i++) {
        if (strcmp(name, level_names[i]) == 0) {
            atomic_store(&level_min, i);
            return 0;
        }
    }
    return MRN_ERR_INVALID;
}

/* How often each place logged lately; two places that share an entry share their allowance. */
static struct {
    uint64_t window_start_ns;
    uint32_t passed, held_back;
} rates[PLACES];
static pthread_mutex_t rates_lock = PTHREAD_MUTEX_INITIALIZER;

/* Returns whether the line may pass, and how many of its kind were held back before it. */
static bool may_pass(const char *event, const char *file, int line, uint32_t *ret_held_back) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
    uint32_t hash = (uint32_t)line * 2654435761u;
    for (const char *p = file; *p; p++)
        hash = (hash ^ (unsigned char)*p) * 16777619u;
    for (const char *p = event; *p; p++)
        hash = (hash ^ (unsigned char)*p) * 16777619u;
    uint32_t place = hash % PLACES;
    *ret_held_back = 0;
    pthread_mutex_lock(&rates_lock);
    bool passes = true;
    if (now_ns - rates[place].window_start_ns > BURST_NS) {
        *ret_held_back = rates[place].held_back;
        rates[place].window_start_ns = now_ns;
        rates[place].passed = 1;
        rates[place].held_back = 0;
    } else if (rates[place].passed < BURST) {
        rates[place].passed++;
    } else {
        rates[place].held_back++;
        passes = false;
    }
    pthread_mutex_unlock(&rates_lock);
    return passes;
}

static size_t put_head(char *line, enum mrn_log_level level, const char *event) {
    struct timespec now;
    struct tm broken;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &broken);
    size_t used = strftime(line, 32, "%Y-%m-%dT%H:%M:%S", &broken);
    int more = snprintf(line + used, LINE_BYTES - used, ".%06ldZ %s %s", now.tv_nsec / 1000,
                        level_names[level], event);
    return used + (size_t)more;
}

void mrn_log_line(enum mrn_log_level level, const char *event, const char *file, int line,
                  const char *format, ...) {
    uint32_t held_back;
    if ((int)level < atomic_load(&level_min) || !may_pass(event, file, line, &held_back))
        return;
    char text[LINE_BYTES];
    size_t used = put_head(text, level, event);
    if (*format)
        text[used++] = ' ';
    va_list arguments;
    va_start(arguments, format);
    int more = vsnprintf(text + used, sizeof text - used - 64, format, arguments);
    va_end(arguments);
    if (more > 0)
        used += (size_t)more < sizeof text - used - 64 ? (size_t)more : sizeof text - used - 65;
    if (held_back > 0)
        used += (size_t)snprintf(text + used, 40, " held_back=%u", held_back);
    for (size_t i = 0; i < used; i++)
        if ((unsigned char)text[i] < ' ')
            text[i] = ' ';
    text[used++] = '\n';
    ssize_t written = write(STDERR_FILENO, text, used);
    (void)written; /* nobody left to tell */
}

const char *mrn_log_quote(const char *text) {
    static _Thread_local char buffers[QUOTES][QUOTE_BYTES];
    static _Thread_local unsigned next;
    bool plain = *text != '\0';
    for (const char *p = text; *p && plain; p++)
        plain = (unsigned char)*p > ' ' && *p != '"' && *p != '\\' && *p != '=' && *p != 0x7f;
    char *buffer = buffers[next++ % QUOTES];
    size_t used = 0;
    if (!plain)
        buffer[used++] = '"';
    for (const char *p = text; *p && used + 4 < QUOTE_BYTES; p++) {
        if (*p == '"' || *p == '\\')
            buffer[used++] = '\\';
        buffer[used++] = (unsigned char)*p < ' ' || *p == 0x7f ? '?' : *p;
    }
    if (!plain)
        buffer[used++] = '"';
    buffer[used] = '\0';
    return buffer;
}
