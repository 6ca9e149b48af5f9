/* maroon-node: config, control plane and dataplane of one node, wired. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "config/config.h"
#include "controlplane/control.h"
#include "controlplane/from_config.h"
#include "controlplane/log.h"
#include "controlplane/notify.h"
#include "dataplane/net/from_config.h"
#include "dataplane/net/probe.h"
#include "dataplane/net/telemetry.h"
#include "dataplane/preflight/preflight.h"
#include "dataplane/stages/stage.h"
#include "dataplane/stages/telemetry.h"
#include "runtime/applications/applications.h"
#include <maroon/error.h>
#include <sodium.h>

static volatile bool interrupted;
static int wake_pipe[2];

static void on_signal(int number) {
    (void)number;
    interrupted = true;
    (void)!write(wake_pipe[1], "s", 1);
}

static void on_failed(void *context, int error, const char *reason) {
    (void)context;
    mrn_log_error("fail_stop", "error=%s reason=%s", mrn_error_name(error), mrn_log_quote(reason));
    (void)!write(wake_pipe[1], "f", 1);
}

/* ---- who else lives under our index? ---- */

static uint64_t clock_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

#define PEERS_AGAIN_US 100000

struct prober {
    struct net_probe probe;
    const struct config *config;
    uint64_t peers_asked_us;
};

static bool probe_ask(void *context, const char *address, uint64_t nonce) {
    struct prober *prober = context;
    struct net_address to;
    if (net_address_parse(address, &to) || net_probe_is_own(&prober->probe, to))
        return false;
    net_probe_ask(&prober->probe, to, nonce, clock_us());
    return true;
}

static void probe_serve(void *context, uint64_t process_token) {
    struct prober *prober = context;
    const struct config *g = prober->config;
    char cluster[WIRE_CLUSTER_BYTES] = "";
    uint64_t now_us = clock_us();
    memcpy(cluster, g->cluster, strnlen(g->cluster, sizeof cluster));
    net_probe_serve(&prober->probe, process_token, cluster, now_us);
    if (now_us - prober->peers_asked_us < PEERS_AGAIN_US)
        return;
    prober->peers_asked_us = now_us;
    for (uint32_t i = 0; i < g->node_count; i++)
        if (i != g->index)
            net_probe_ask(&prober->probe,
                          (struct net_address){.ipv4 = g->node[i].ipv4, .port = g->node[i].port},
                          (uint64_t)randombytes_random() << 32 | 1, now_us);
}

static bool probe_answer(void *context, uint64_t nonce, uint64_t *ret_token) {
    return net_probe_answer(&((struct prober *)context)->probe, nonce, ret_token);
}

static bool probe_other(void *context, char ret_cluster[WIRE_CLUSTER_BYTES + 1],
                        char ret_from[CONTROL_ADDRESS_MAX]) {
    struct net_address from;
    char text[NET_ADDRESS_TEXT_BYTES];
    if (!net_probe_other(&((struct prober *)context)->probe, ret_cluster, &from))
        return false;
    snprintf(ret_from, CONTROL_ADDRESS_MAX, "%s", net_address_format(from, text));
    return true;
}

static void *stage_thread(void *argument) {
    struct stage *stage = argument;
    (void)stage_run(stage);
    (void)!write(wake_pipe[1], "e", 1);
    return NULL;
}

/* Until a signal ('s'), a fail-stop ('f') or the dataplane's end ('e'); meanwhile the service
 * manager is told how it goes. */
static char wait_for_end(struct notify *notify, const struct stage *stage,
                         struct mailbox *mailbox) {
    struct pollfd wake = {.fd = wake_pipe[0], .events = POLLIN};
    struct mailbox_facts facts;
    struct timespec t;
    char why, status[NOTIFY_STATUS_BYTES];
    for (;;) {
        mailbox_facts_read(mailbox_status(mailbox), &facts);
        snprintf(status, sizeof status, "%s, node %u, term %llu",
                 facts.role == MAILBOX_ROLE_STARTING ? "starting"
                 : facts.role == MAILBOX_ROLE_LEADER ? "leader"
                                                     : "not the leader",
                 facts.node_index, (unsigned long long)facts.term);
        clock_gettime(CLOCK_MONOTONIC, &t);
        uint32_t wait_ms =
            notify_beat(notify, (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec,
                        stage_pass_ns(stage), status);
        if (poll(&wake, 1, wait_ms == NOTIFY_NEVER ? -1 : (int)wait_ms) > 0 &&
            read(wake_pipe[0], &why, 1) == 1)
            return why;
    }
}

/* Runs between a started net and its end. Returns the exit status. */
static int serve(const struct config *g, struct control *control,
                 const struct control_identity *identity, struct net *net) {
    uint32_t application_count;
    const struct mrn_application *const *applications = applications_list(&application_count);
    char text[NET_TEXT_BYTES] = "";
    struct mailbox *mailbox = mailbox_create(1024);
    struct stage_setup setup = {g, identity, net, mailbox, applications, application_count};
    struct stage *stage = NULL;
    pthread_t thread;
    int error = mailbox ? stage_open(&setup, &stage, text) : MRN_ERR_NO_MEMORY;
    if (error) {
        mrn_log_error("dataplane_refused", "error=%s why=%s", mrn_error_name(error),
                      mrn_log_quote(text));
        mailbox_destroy(mailbox);
        return 1;
    }
    net_describe(net, text, sizeof text);
    mrn_log_info("started",
                 "version=0.1.0 node=%u of=%u quorum=%u port=%u durability=%s config=%016llx %s",
                 g->index, g->node_count, g->quorum, g->node[g->index].port,
                 g->durability == CONFIG_DURABILITY_DISK ? "disk" : "memory",
                 (unsigned long long)g->digest, text);
    error = telemetry_start(mailbox);
    if (error) /* a node without it is a node */
        mrn_log_warning("telemetry", "error=%s", mrn_error_name(error));
    mrn_log_info("storage", "%s", stage_describe(stage));
    error = control_start(control, mailbox);
    if (!error && pthread_create(&thread, NULL, stage_thread, stage))
        error = MRN_ERR_NO_MEMORY;
    if (error)
        mrn_log_error("control_refused", "error=%s why=%s", mrn_error_name(error),
                      mrn_log_quote(mrn_error_text(error)));
    char why = 'f';
    if (!error) {
        struct notify notify;
        notify_open(&notify);
        why = wait_for_end(&notify, stage, mailbox);
        notify_stopping(&notify);
        notify_close(&notify);
        if (why == 's') { /* give the leadership away first */
            control_announce_stop(control);
            usleep(g->node_count > 1 ? 200000 : 1000);
        }
        stage_stop(stage);
        pthread_join(thread, NULL);
    }
    net_telemetry_stop();
    control_stop(control);
    stage_close(stage);
    mailbox_destroy(mailbox);
    mrn_log_info("stopped", "why=%s", why == 's' ? "signal" : "fail_stop");
    return why == 's' ? 0 : 1;
}

int main(int argc, char **argv) {
    static struct config g;
    char text[NET_TEXT_BYTES > CONFIG_ERROR_BYTES ? NET_TEXT_BYTES : CONFIG_ERROR_BYTES];
    if (config_load(&g, CONFIG_NODE, argc, argv, environ, text)) {
        fprintf(stderr, "maroon-node: %s\n", text);
        return 2;
    }
    if (g.action == CONFIG_HELP || g.action == CONFIG_VERSION) {
        g.action == CONFIG_HELP ? config_print_help(CONFIG_NODE, stdout)
                                : config_print_version(CONFIG_NODE, stdout);
        return 0;
    }
    static struct net_config n;
    for (uint32_t i = 0; i < g.node_count; i++)
        if (!g.node[i].ipv4 && config_url_resolve(&g.node[i])) {
            fprintf(stderr, "maroon-node: the name %s of node %u is not known\n", g.node[i].host,
                    i);
            return 2;
        }
    net_from_config(&g, &n);
    n.eal.telemetry = true;
    if (net_config_check(&n, text)) {
        fprintf(stderr, "maroon-node: %s\n", text);
        return 2;
    }
    if (g.action == CONFIG_CHECK) {
        struct net_memory m;
        net_memory_plan(&n, &m);
        config_print(&g, stdout);
        struct stage_memory taken;
        stage_memory_plan(&g, &taken);
        printf("# packet buffers: %u of %u bytes; DPDK memory: %u MiB; beside it, at most:\n",
               m.mbuf_count, m.mbuf_bytes, g.memory_mb ? g.memory_mb : m.memory_mb);
        stage_memory_print(&taken, "# ", stdout);
        return 0;
    }
    if (g.action == CONFIG_PREFLIGHT)
        return preflight(&g, &(struct system){g.preflight_root}, stdout).fail ? 1 : 0;
    mrn_log_set_level((enum mrn_log_level)(MRN_LOG_ERROR - (int)g.log_level));
    if (sodium_init() < 0 || pipe2(wake_pipe, O_CLOEXEC | O_NONBLOCK)) {
        fprintf(stderr, "maroon-node: no random numbers or no pipe\n");
        return 1;
    }
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    static struct control_config c;
    static struct control_identity identity;
    struct control *control = NULL;
    control_from_config(&g, &c);
    c.applications = applications_list(&c.application_count);
    c.failed = on_failed;
    c.interrupted = &interrupted;
    (void)mkdir(c.data_dir, 0700);
    struct net *net = NULL;
    int error = net_start(&n, &net, text);
    if (error) {
        mrn_log_error("network_refused", "error=%s why=%s", mrn_error_name(error),
                      mrn_log_quote(text));
        net_eal_stop();
        return 1;
    }
    struct prober prober = {.config = &g};
    struct control_probe probe = {probe_ask, probe_serve, probe_answer, probe_other, &prober};
    net_probe_open(&prober.probe, net);
    c.probe = &probe;
    error = control_prepare(&c, &control, &identity);
    if (error == MRN_ERR_CLOSED) /* by a signal, while it waited for the others */
        mrn_log_info("stopped", "why=signal");
    else if (error)
        mrn_log_error("not_started", "error=%s why=%s", mrn_error_name(error),
                      mrn_log_quote(mrn_error_text(error)));
    int status = !error ? serve(&g, control, &identity, net) : error == MRN_ERR_CLOSED ? 0 : 1;
    control_destroy(control);
    net_stop(net);
    net_eal_stop();
    return status;
}
