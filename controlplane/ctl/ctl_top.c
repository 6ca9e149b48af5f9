/* top: rates of each node, once a second. */
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "controlplane/ctl/ctl.h"

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void rate_text(char *ret, size_t room, const json_t *before, const json_t *after,
                      const char *name, double seconds) {
    uint64_t from = ctl_number(before, name), to = ctl_number(after, name);
    if (!before || to < from || seconds <= 0) /* a node that restarted counts anew */
        snprintf(ret, room, "-");
    else
        snprintf(ret, room, "%.0f", (double)(to - from) / seconds);
}

static void print_json(const struct ctl_options *options, json_t *statuses[CTL_NODES_MAX]) {
    json_t *array = json_array();
    for (int i = 0; i < options->node_count; i++)
        if (statuses[i])
            (void)json_array_append(array, statuses[i]);
    json_dumpf(array, stdout, JSON_COMPACT);
    printf("\n");
    json_decref(array);
}

static void print_table(const struct ctl_options *options, json_t *before[CTL_NODES_MAX],
                        json_t *after[CTL_NODES_MAX], double seconds) {
    struct ctl_table table = {0};
    ctl_table_row(&table, 10, "NODE", "ROLE", "TERM", "COMMIT", "BEHIND", "EPOCHS/S", "TX/S",
                  "PUBLISHED", "RANGES", "ALARMS");
    for (int i = 0; i < options->node_count; i++) {
        char epochs[24], transactions[24], behind[24], alarms[24];
        if (!after[i]) {
            ctl_table_row(&table, 10, "?", "no answer", "", "", "", "", "", "", "",
                          options->nodes[i]);
            continue;
        }
        rate_text(epochs, sizeof epochs, before[i], after[i], "epochsCommitted", seconds);
        rate_text(transactions, sizeof transactions, before[i], after[i], "transactionsCommitted",
                  seconds);
        snprintf(behind, sizeof behind, "%" PRIu64,
                 ctl_number(after[i], "commitSeq") - ctl_number(after[i], "execSeq"));
        snprintf(alarms, sizeof alarms, "%zu",
                 json_array_size(json_object_get(after[i], "alarms")));
        ctl_table_row(&table, 10, ctl_text(after[i], "node"), ctl_text(after[i], "role"),
                      ctl_text(after[i], "term"), ctl_text(after[i], "commitSeq"), behind, epochs,
                      transactions, ctl_text(after[i], "publishedSeq"),
                      ctl_text(after[i], "rangeCount"), alarms);
    }
    if (isatty(STDOUT_FILENO))
        printf("\033[H\033[2J");
    ctl_table_print(&table, stdout);
    for (int i = 0; i < options->node_count; i++)
        ctl_alarms_print(after[i]);
    fflush(stdout);
}

int ctl_top(const struct ctl_options *options) {
    json_t *before[CTL_NODES_MAX] = {0}, *after[CTL_NODES_MAX];
    double before_s = 0;
    for (uint64_t round = 0; options->count == 0 || round <= options->count; round++) {
        double now_s = seconds_now();
        int answered = ctl_statuses(options, after);
        if (round > 0 && options->json)
            print_json(options, after);
        else if (round > 0)
            print_table(options, before, after, now_s - before_s);
        else if (!answered)
            return 1; /* wrong addresses are said once */
        ctl_statuses_free(before);
        memcpy(before, after, sizeof before);
        before_s = now_s;
        if (options->count == 0 || round < options->count)
            sleep(1);
    }
    ctl_statuses_free(before);
    return 0;
}
