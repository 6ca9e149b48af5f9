#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/ctl/ctl.h"

static int print_json(const struct ctl_options *options, json_t *statuses[CTL_NODES_MAX]) {
    json_t *array = json_array();
    for (int i = 0; i < options->node_count; i++)
        if (statuses[i])
            (void)json_array_append(array, statuses[i]);
    int failed = json_dumpf(array, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(array);
    return failed ? 1 : 0;
}

/* Nodes at the same exec_seq must show the same results. */
static bool states_agree(json_t *statuses[CTL_NODES_MAX]) {
    for (int i = 0; i < CTL_NODES_MAX; i++)
        for (int j = i + 1; j < CTL_NODES_MAX && statuses[i]; j++)
            if (statuses[j] &&
                ctl_number(statuses[i], "execSeq") == ctl_number(statuses[j], "execSeq") &&
                strcmp(ctl_text(statuses[i], "resultHash"), ctl_text(statuses[j], "resultHash")) !=
                    0)
                return false;
    return true;
}

void ctl_alarms_print(const json_t *status) {
    size_t place;
    const json_t *alarm;
    json_array_foreach(json_object_get(status, "alarms"), place, alarm)
        printf("ALARM node %s: %s\n", ctl_text(status, "node"), json_string_value(alarm));
}

int ctl_status(const struct ctl_options *options) {
    json_t *statuses[CTL_NODES_MAX];
    int answered = ctl_statuses(options, statuses);
    if (options->json) {
        int failed = print_json(options, statuses);
        ctl_statuses_free(statuses);
        return failed || !answered;
    }
    struct ctl_table table = {0};
    ctl_table_row(&table, 10, "NODE", "ADMIN", "ROLE", "READY", "TERM", "LEADER", "COMMIT", "EXEC",
                  "RANGES", "RESULT HASH");
    for (int i = 0; i < options->node_count; i++) {
        char hash[20];
        if (!statuses[i]) {
            ctl_table_row(&table, 10, "?", options->nodes[i], "no answer", "", "", "", "", "", "",
                          "");
            continue;
        }
        snprintf(hash, sizeof hash, "%.16s", ctl_text(statuses[i], "resultHash"));
        ctl_table_row(&table, 10, ctl_text(statuses[i], "node"), options->nodes[i],
                      ctl_text(statuses[i], "role"), ctl_text(statuses[i], "ready"),
                      ctl_text(statuses[i], "term"), ctl_text(statuses[i], "leader"),
                      ctl_text(statuses[i], "commitSeq"), ctl_text(statuses[i], "execSeq"),
                      ctl_text(statuses[i], "rangeCount"), hash);
    }
    ctl_table_print(&table, stdout);
    for (int i = 0; i < options->node_count; i++) {
        const char *why = statuses[i] ? ctl_text(statuses[i], "notReady") : "";
        if (*why && strcmp(why, "-") != 0)
            printf("node %s is not ready: %s\n", ctl_text(statuses[i], "node"), why);
        ctl_alarms_print(statuses[i]);
    }
    bool agree = states_agree(statuses);
    if (!agree)
        printf("WARNING: nodes with the same exec_seq have different result hashes\n");
    ctl_statuses_free(statuses);
    return answered == options->node_count && agree ? 0 : 1;
}

/* ---- leader ---- */

static const json_t *leader_of(json_t *statuses[CTL_NODES_MAX], int *ret_place) {
    for (int i = 0; i < CTL_NODES_MAX; i++)
        if (statuses[i] && strcmp(ctl_text(statuses[i], "role"), "leader") == 0) {
            *ret_place = i;
            return statuses[i];
        }
    return NULL;
}

static int hand_over(const struct ctl_options *options, json_t *statuses[CTL_NODES_MAX]) {
    int place;
    if (!leader_of(statuses, &place)) {
        fprintf(stderr, "maroonctl: none of the nodes asked leads; name all with --admin\n");
        return 1;
    }
    char *body = NULL;
    long status = ctl_http(options->nodes[place], "POST", "/v1/handover", &body);
    printf("%s: HTTP status %ld %s", options->nodes[place], status, body ? body : "\n");
    free(body);
    return status == 202 ? 0 : 1;
}

int ctl_leader(const struct ctl_options *options) {
    json_t *statuses[CTL_NODES_MAX];
    int answered = ctl_statuses(options, statuses), failed = 0;
    if (options->handover) {
        failed = hand_over(options, statuses);
    } else if (options->json) {
        failed = print_json(options, statuses);
    } else {
        struct ctl_table table = {0};
        const json_t *next = NULL;
        ctl_table_row(&table, 7, "NODE", "RING", "ROLE", "TERM", "KEY REVISION", "SLICE US",
                      "WOULD TRY AFTER US");
        for (int i = 0; i < options->node_count; i++) {
            if (!statuses[i])
                continue;
            bool follows = strcmp(ctl_text(statuses[i], "role"), "follower") == 0;
            if (follows && (!next || ctl_number(statuses[i], "takeoverDelayUs") <
                                         ctl_number(next, "takeoverDelayUs")))
                next = statuses[i];
            ctl_table_row(
                &table, 7, ctl_text(statuses[i], "node"), ctl_text(statuses[i], "ringPosition"),
                ctl_text(statuses[i], "role"), ctl_text(statuses[i], "term"),
                ctl_text(json_object_get(statuses[i], "leaderKey"), "revision"),
                ctl_text(statuses[i], "sliceUs"), ctl_text(statuses[i], "takeoverDelayUs"));
        }
        ctl_table_print(&table, stdout);
        if (next)
            printf("next to try: node %s\n", ctl_text(next, "node"));
    }
    ctl_statuses_free(statuses);
    return failed || !answered;
}

/* ---- ranges ---- */

int ctl_ranges(const struct ctl_options *options) {
    json_t *statuses[CTL_NODES_MAX];
    int answered = ctl_statuses(options, statuses), failed = 0;
    if (options->json) {
        failed = print_json(options, statuses);
    } else {
        struct ctl_table table = {0};
        ctl_table_row(&table, 6, "NODE", "RANGE", "OWNER", "RECEIVED", "COMMITTED", "EXECUTED");
        for (int i = 0; i < options->node_count; i++) {
            size_t place;
            const json_t *range;
            json_array_foreach(json_object_get(statuses[i], "ranges"), place, range) {
                char owner[24];
                snprintf(owner, sizeof owner, "%016" PRIx64, ctl_number(range, "owner"));
                ctl_table_row(&table, 6, ctl_text(statuses[i], "node"), ctl_text(range, "range"),
                              owner, ctl_text(range, "received"), ctl_text(range, "committed"),
                              ctl_text(range, "executed"));
            }
        }
        ctl_table_print(&table, stdout);
    }
    ctl_statuses_free(statuses);
    return failed || !answered;
}
