#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "controlplane/ctl/ctl.h"

#define HANDOVER_PAUSE_US 50000
#define HANDOVER_TRIES 100
#define CTL_RTT_BYTES 256

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

/* What the newest fetch of state from a source cost: one line, "" when there was none. */
static void fetch_print(const json_t *status, const char *source, const json_t *fetch) {
    static const char *const phases[] = {
#define PHASE(name, label, sentence) label,
#include "controlplane/fetch_phases.def"
#undef PHASE
    };
    const json_t *error = json_object_get(fetch, "error");
    bool ended = json_is_true(json_object_get(fetch, "ended"));
    if (!json_is_object(fetch))
        return;
    printf("node %s, %s from %s", ctl_text(status, "node"), ended ? "fetched" : "fetches", source);
    if (json_is_string(error))
        printf(", failed (%s)", json_string_value(error));
    else if (ended)
        printf(" up to epoch %s", ctl_text(fetch, "seq"));
    printf(", %.2f s", (double)ctl_number(fetch, "us") / 1e6);
    const char *before = ":";
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
        const json_t *cost = json_object_get(json_object_get(fetch, "phases"), phases[i]);
        if (!json_is_object(cost))
            continue;
        printf("%s %s %.2f s %.1f MB", before, phases[i], (double)ctl_number(cost, "us") / 1e6,
               (double)ctl_number(cost, "bytes") / 1e6);
        before = ",";
    }
    printf("\n");
}

static void fetches_print(const json_t *status) {
    static const char *const sources[] = {"store", "peer", "stretch"};
    const json_t *fetches = json_object_get(json_object_get(status, "bootstrap"), "fetches");
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        fetch_print(status, sources[i], json_object_get(fetches, sources[i]));
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
        fetches_print(statuses[i]);
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

/* The node asked decides to whom; that one then needs the key, so it takes etcd's answer. */
static int wait_for_another(const struct ctl_options *options, const json_t *before) {
    uint64_t term = ctl_number(before, "term");
    for (int tries = 0; tries < HANDOVER_TRIES; tries++) {
        json_t *statuses[CTL_NODES_MAX];
        int place;
        usleep(HANDOVER_PAUSE_US);
        (void)ctl_statuses(options, statuses);
        const json_t *now = leader_of(statuses, &place);
        bool moved = now && ctl_number(now, "term") > term;
        if (moved)
            printf("leadership moved from node %s (term %" PRIu64 ") to node %s (term %s)\n",
                   ctl_text(before, "node"), term, ctl_text(now, "node"), ctl_text(now, "term"));
        ctl_statuses_free(statuses);
        if (moved)
            return 0;
    }
    fprintf(stderr,
            "maroonctl: node %s was asked to hand over, but no other leads after %d s: is there "
            "another node in step, and does etcd answer? (maroonctl status)\n",
            ctl_text(before, "node"), HANDOVER_TRIES * HANDOVER_PAUSE_US / 1000000);
    return 1;
}

static int hand_over(const struct ctl_options *options, json_t *statuses[CTL_NODES_MAX]) {
    int place;
    const json_t *before = leader_of(statuses, &place);
    if (!before) {
        fprintf(stderr, "maroonctl: none of the nodes asked leads; name all with --admin\n");
        return 1;
    }
    char *body = NULL;
    long status = ctl_http(options->nodes[place], "POST", "/v1/handover", &body);
    if (status != 202)
        fprintf(stderr, "maroonctl: %s: HTTP status %ld %s\n", options->nodes[place], status,
                body ? body : "");
    free(body);
    return status == 202 ? wait_for_another(options, before) : 1;
}

/* "0: 84, 2: 91": round trips to the peers, us. */
static const char *round_trips(const json_t *status, char text[CTL_RTT_BYTES]) {
    size_t place;
    const json_t *peer;
    int length = 0;
    text[0] = '\0';
    json_array_foreach(json_object_get(status, "peers"), place, peer) {
        if (!json_object_get(peer, "delayNs"))
            continue; /* itself */
        if (length < CTL_RTT_BYTES - 32)
            length += snprintf(text + length, (size_t)(CTL_RTT_BYTES - length), "%s%s: %" PRIu64,
                               length ? ", " : "", ctl_text(peer, "node"),
                               ctl_number(peer, "delayNs") / 1000);
    }
    return length ? text : "-";
}

static void leader_table(const struct ctl_options *options, json_t *statuses[CTL_NODES_MAX]) {
    struct ctl_table table = {0};
    const json_t *next = NULL;
    int place;
    ctl_table_row(&table, 9, "NODE", "RING", "ROLE", "TERM", "KEY REVISION", "RTT US", "ETCD US",
                  "SLICE US", "WOULD TRY AFTER US");
    for (int i = 0; i < options->node_count; i++) {
        const json_t *status = statuses[i];
        if (!status)
            continue;
        bool follows = strcmp(ctl_text(status, "role"), "follower") == 0;
        if (follows &&
            (!next || ctl_number(status, "takeoverDelayUs") < ctl_number(next, "takeoverDelayUs")))
            next = status;
        char rtt[CTL_RTT_BYTES];
        ctl_table_row(&table, 9, ctl_text(status, "node"), ctl_text(status, "ringPosition"),
                      ctl_text(status, "role"), ctl_text(status, "term"),
                      ctl_text(json_object_get(status, "leaderKey"), "revision"),
                      round_trips(status, rtt),
                      ctl_text(json_object_get(status, "etcd"), "latencyUs"),
                      ctl_text(status, "sliceUs"), ctl_text(status, "takeoverDelayUs"));
    }
    ctl_table_print(&table, stdout);
    const json_t *leader = leader_of(statuses, &place);
    if (leader)
        printf("leader: node %s, term %s\n", ctl_text(leader, "node"), ctl_text(leader, "term"));
    else
        printf("leader: none of the nodes asked\n");
    if (next)
        printf("next to try: node %s, after %s us without a leader\n", ctl_text(next, "node"),
               ctl_text(next, "takeoverDelayUs"));
}

int ctl_leader(const struct ctl_options *options) {
    json_t *statuses[CTL_NODES_MAX];
    int answered = ctl_statuses(options, statuses), failed = 0;
    if (options->handover)
        failed = hand_over(options, statuses);
    else if (options->json)
        failed = print_json(options, statuses);
    else
        leader_table(options, statuses);
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
        for (int i = 0; i < options->node_count; i++) {
            uint64_t shown = json_array_size(json_object_get(statuses[i], "ranges"));
            if (shown < ctl_number(statuses[i], "rangeCount"))
                printf("node %s: %" PRIu64 " of %s ranges shown\n", ctl_text(statuses[i], "node"),
                       shown, ctl_text(statuses[i], "rangeCount"));
        }
    }
    ctl_statuses_free(statuses);
    return failed || !answered;
}
