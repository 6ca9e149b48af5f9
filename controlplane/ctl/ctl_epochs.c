/* epochs: what is published. Asks the first node that answers; the others are spare. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "controlplane/ctl/ctl.h"

#define SHOWN 20
#define WAIT_MS 20000

/* NULL when no node answers. */
static json_t *ask(const struct ctl_options *options, const char *path, uint32_t timeout_ms) {
    for (int i = 0; i < options->node_count; i++) {
        char *body = NULL;
        long status = ctl_http_wait(options->nodes[i], "GET", path, timeout_ms, &body);
        json_t *answer = status == 200 && body ? json_loads(body, 0, NULL) : NULL;
        if (!answer)
            fprintf(stderr, "maroonctl: %s: %s\n", options->nodes[i],
                    status == 0 && body ? body : "no list of epochs");
        free(body);
        if (answer)
            return answer;
    }
    return NULL;
}

static void print_line(const struct ctl_options *options, const json_t *epoch) {
    if (options->json) {
        json_dumpf(epoch, stdout, JSON_COMPACT);
        printf("\n");
    } else {
        printf("%12s  term %-10s  %16sus  hash %.16s  results %.16s\n", ctl_text(epoch, "seq"),
               ctl_text(epoch, "term"), ctl_text(epoch, "logicalTimeUs"), ctl_text(epoch, "hash"),
               ctl_text(epoch, "resultHash"));
    }
}

static uint64_t print_all(const struct ctl_options *options, const json_t *answer, uint64_t last) {
    size_t place;
    const json_t *epoch;
    json_array_foreach(json_object_get(answer, "epochs"), place, epoch) {
        print_line(options, epoch);
        last = ctl_number(epoch, "seq");
    }
    fflush(stdout);
    return last;
}

static int follow(const struct ctl_options *options) {
    uint64_t last = 0, printed = 0;
    bool first = true;
    for (;;) {
        char path[96];
        if (first)
            snprintf(path, sizeof path, "/v1/epochs?limit=1");
        else
            snprintf(path, sizeof path, "/v1/epochs?from=%" PRIu64 "&wait_ms=%d", last + 1,
                     WAIT_MS);
        json_t *answer = ask(options, path, WAIT_MS + 5000);
        if (answer) {
            uint64_t before = last;
            last = print_all(options, answer, last);
            printed += last != before;
            first = false;
        } else {
            sleep(1);
        }
        json_decref(answer);
        if (options->count && printed >= options->count)
            return 0;
    }
}

int ctl_epochs(const struct ctl_options *options) {
    char path[64];
    if (options->follow)
        return follow(options);
    snprintf(path, sizeof path, "/v1/epochs?limit=%" PRIu64,
             options->count ? options->count : SHOWN);
    json_t *answer = ask(options, path, 3000);
    if (!answer)
        return 1;
    if (options->json) {
        json_dumpf(answer, stdout, JSON_INDENT(2));
        printf("\n");
    } else {
        struct ctl_table table = {0};
        size_t place;
        const json_t *epoch;
        ctl_table_row(&table, 5, "SEQ", "TERM", "LOGICAL TIME US", "HASH", "RESULT HASH");
        json_array_foreach(json_object_get(answer, "epochs"), place, epoch) {
            char hash[20], results[20];
            snprintf(hash, sizeof hash, "%.16s", ctl_text(epoch, "hash"));
            snprintf(results, sizeof results, "%.16s", ctl_text(epoch, "resultHash"));
            ctl_table_row(&table, 5, ctl_text(epoch, "seq"), ctl_text(epoch, "term"),
                          ctl_text(epoch, "logicalTimeUs"), hash, results);
        }
        ctl_table_print(&table, stdout);
    }
    json_decref(answer);
    return 0;
}
