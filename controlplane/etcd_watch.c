#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/etcd.h"
#include "controlplane/etcd_internal.h"
#include "controlplane/etcd_json.h"
#include "maroon/error.h"

#define LINE_MAX_BYTES (4u << 20)

/*   waiting --timer--> asking --created--> running --connection or member lost--> waiting
 *                        \---- compacted ----/ --> over                                       */
struct etcd_watch {
    struct etcd *etcd;
    struct etcd_watch *next;
    char key[ETCD_KEY_MAX + 1], range_end[ETCD_KEY_MAX + 1]; /* "": one key */
    uint64_t revision;                                       /* the first not seen yet */
    struct http_call *call;
    struct loop_timer timer;
    uint32_t endpoint;
    char *line;
    size_t line_bytes, line_capacity;
    bool stopped; /* freed when the callback that is on the stack returns */
    bool over;    /* compacted: told, nothing more comes */
    uint32_t depth;
    etcd_changed changed;
    void *context;
};

static void watch_begin(void *context);

static void watch_free(struct etcd_watch *watch) {
    free(watch->line);
    free(watch);
}

static void watch_tell(struct etcd_watch *watch, const struct etcd_change *change) {
    watch->depth++;
    watch->changed(watch->context, change);
    watch->depth--;
}

static void watch_again(struct etcd_watch *watch, bool failed) {
    watch->call = NULL;
    watch->line_bytes = 0;
    if (failed) {
        etcd_count(watch->etcd, ETCD_METRIC_WATCH, ETCD_OUTCOME_UNAVAILABLE);
        etcd_endpoint_failed(watch->etcd, watch->endpoint);
    }
    loop_timer_set(watch->etcd->loop, &watch->timer, etcd_retry_delay_ms(watch->etcd), watch_begin,
                   watch);
}

static void take_events(struct etcd_watch *watch, const struct etcd_json_watch *line) {
    /* An event's revision tells how far we are; a resumed watch may not repeat it. */
    for (uint32_t i = 0; i < line->event_count; i++)
        if (line->events[i].kv.mod_revision >= watch->revision)
            watch->revision = line->events[i].kv.mod_revision + 1;
    struct etcd_change change = {
        .kind = ETCD_CHANGE_EVENTS,
        .revision = line->revision,
        .events = line->events,
        .event_count = line->event_count,
    };
    watch_tell(watch, &change);
}

/* Returns whether the stream goes on. */
static bool take_line(struct etcd_watch *watch, const char *text, size_t bytes) {
    struct etcd_memory *memory = NULL;
    struct etcd_json_watch line;
    bool more = true;
    if (etcd_json_read_watch(text, bytes, &memory, &line)) {
        etcd_count(watch->etcd, ETCD_METRIC_WATCH, ETCD_OUTCOME_MALFORMED);
        more = false;
    } else if (line.canceled && line.compact_revision) {
        struct etcd_change change = {.kind = ETCD_CHANGE_COMPACTED,
                                     .revision = line.compact_revision};
        watch->over = true;
        watch_tell(watch, &change);
        more = false;
    } else if (line.canceled) {
        /* No leader, or the token is not taken any more (that comes as HTTP 200 as well). */
        watch->etcd->token[0] = '\0';
        more = false;
    } else if (line.created) {
        etcd_count(watch->etcd, ETCD_METRIC_WATCH, ETCD_OUTCOME_OK);
        watch->etcd->metrics.failures_in_a_row = 0;
        struct etcd_change change = {.kind = ETCD_CHANGE_CREATED, .revision = line.revision};
        watch_tell(watch, &change);
    } else if (line.event_count > 0) {
        take_events(watch, &line);
    }
    etcd_memory_free(memory);
    return more && !watch->stopped;
}

static bool line_append(struct etcd_watch *watch, const char *bytes, size_t count) {
    if (count > LINE_MAX_BYTES - watch->line_bytes)
        return false;
    if (watch->line_bytes + count > watch->line_capacity) {
        size_t capacity = (watch->line_bytes + count) * 2;
        char *grown = realloc(watch->line, capacity);
        if (!grown)
            return false;
        watch->line = grown;
        watch->line_capacity = capacity;
    }
    memcpy(watch->line + watch->line_bytes, bytes, count);
    watch->line_bytes += count;
    return true;
}

static bool on_data(void *context, const char *bytes, size_t count) {
    struct etcd_watch *watch = context;
    watch->depth++;
    bool more = !watch->stopped;
    while (more && count > 0) {
        const char *newline = memchr(bytes, '\n', count);
        size_t taken = newline ? (size_t)(newline - bytes) : count;
        more = line_append(watch, bytes, taken);
        if (more && newline) {
            size_t length = watch->line_bytes;
            watch->line_bytes = 0;
            more = length == 0 || take_line(watch, watch->line, length);
            taken++;
        }
        bytes += taken;
        count -= taken;
    }
    watch->depth--;
    if (watch->stopped && watch->depth == 0)
        watch_free(watch);
    return more;
}

static void on_done(void *context, const struct http_answer *answer) {
    struct etcd_watch *watch = context;
    assert(!watch->stopped);
    watch->call = NULL;
    if (answer->status == 401)
        watch->etcd->token[0] = '\0';
    if (!watch->over)
        watch_again(watch, true);
}

static void watch_begin(void *context) {
    struct etcd_watch *watch = context;
    struct etcd *etcd = watch->etcd;
    if (!etcd_token_ready(etcd)) {
        watch_again(watch, false);
        return;
    }
    char url[600], token[ETCD_TOKEN_MAX + 32];
    snprintf(url, sizeof url, "%s/v3/watch", etcd->endpoints[etcd->endpoint]);
    char *body =
        etcd_json_watch(watch->key, watch->range_end[0] ? watch->range_end : NULL, watch->revision);
    struct http_options options = {
        .url = url,
        .body = body,
        .body_bytes = body ? strlen(body) : 0,
        /* Without hasleader a member that is cut off keeps a silent watch open for ever. */
        .headers = {"Content-Type: application/json", "Grpc-Metadata-hasleader: true",
                    etcd_token_header(etcd, token, sizeof token)},
        .tls = &etcd->tls,
        .data = on_data,
        .done = on_done,
        .context = watch,
    };
    watch->endpoint = etcd->endpoint;
    if (!body || http_client_call(etcd->http, &options, &watch->call))
        watch_again(watch, true);
    free(body);
}

struct etcd_watch *etcd_watch_start(struct etcd *etcd, const char *key, const char *range_end,
                                    uint64_t revision, etcd_changed changed, void *context) {
    if (strlen(key) > ETCD_KEY_MAX || (range_end && strlen(range_end) > ETCD_KEY_MAX))
        return NULL;
    struct etcd_watch *watch = calloc(1, sizeof *watch);
    if (!watch)
        return NULL;
    watch->etcd = etcd;
    watch->revision = revision;
    watch->changed = changed;
    watch->context = context;
    memcpy(watch->key, key, strlen(key) + 1);
    if (range_end)
        memcpy(watch->range_end, range_end, strlen(range_end) + 1);
    watch->next = etcd->watches;
    etcd->watches = watch;
    loop_timer_set(etcd->loop, &watch->timer, 0, watch_begin, watch);
    return watch;
}

void etcd_watch_stop(struct etcd_watch *watch) {
    if (!watch || watch->stopped)
        return;
    struct etcd_watch **link = &watch->etcd->watches;
    while (*link != watch)
        link = &(*link)->next;
    *link = watch->next;
    loop_timer_clear(watch->etcd->loop, &watch->timer);
    if (watch->call)
        http_client_cancel(watch->etcd->http, watch->call);
    watch->call = NULL;
    watch->stopped = true;
    if (watch->depth == 0)
        watch_free(watch);
}
