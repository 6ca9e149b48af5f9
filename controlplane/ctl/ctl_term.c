/* term-base --raise: the way forward after etcd was restored from an older snapshot. Terms and
 * incarnations are term_base + etcd's revision; the new base is above all that any node has seen.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "controlplane/ctl/ctl.h"

#define TRIES 50

static uint64_t greater(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

static uint64_t greatest_seen(json_t *statuses[CTL_NODES_MAX]) {
    uint64_t most = 0;
    for (int i = 0; i < CTL_NODES_MAX; i++) {
        size_t place;
        const json_t *peer;
        most = greater(most, ctl_number(statuses[i], "term"));
        most = greater(most, ctl_number(statuses[i], "termFloor"));
        most = greater(most, ctl_number(statuses[i], "incarnation"));
        json_array_foreach(json_object_get(statuses[i], "peers"), place, peer) most =
            greater(most, ctl_number(peer, "incarnation"));
    }
    return most;
}

static int raise(const struct ctl_options *options, json_t *statuses[CTL_NODES_MAX]) {
    char path[64];
    int place = 0;
    uint64_t to = greatest_seen(statuses) + 1;
    while (!statuses[place])
        place++;
    snprintf(path, sizeof path, "/v1/term-base?to=%" PRIu64, to);
    char *body = NULL;
    long status = ctl_http(options->nodes[place], "POST", path, &body);
    free(body);
    for (int i = 0; status == 202 && i < TRIES; i++) {
        usleep(100000);
        json_t *now[CTL_NODES_MAX];
        ctl_statuses(options, now);
        bool done = now[place] && ctl_number(now[place], "termBase") >= to;
        ctl_statuses_free(now);
        if (done) {
            printf("term_base is %" PRIu64 "\n", to);
            return 0;
        }
    }
    fprintf(stderr, "maroonctl: %s: not raised: HTTP status %ld, or etcd does not answer\n",
            options->nodes[place], status);
    return 1;
}

int ctl_term_base(const struct ctl_options *options) {
    json_t *statuses[CTL_NODES_MAX];
    int answered = ctl_statuses(options, statuses), failed = 0;
    if (!options->raise) {
        for (int i = 0; i < options->node_count; i++)
            if (statuses[i])
                printf("node %s: term_base %s, greatest term seen %s\n",
                       ctl_text(statuses[i], "node"), ctl_text(statuses[i], "termBase"),
                       ctl_text(statuses[i], "term"));
        failed = answered == 0;
    } else if (answered < options->node_count) {
        fprintf(stderr, "maroonctl: every node must answer, or a term might be overlooked; name "
                        "those that exist with --admin\n");
        failed = 1;
    } else {
        failed = raise(options, statuses);
    }
    ctl_statuses_free(statuses);
    return failed;
}
