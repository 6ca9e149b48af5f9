/* admin: a node's HTTP server for people, Prometheus and peers (interfaces.md, "Node, admin HTTP").
 *
 *   GET /v1/status  /metrics  /healthz  /readyz  /v1/snapshot?newer_than=S
 *       /v1/stretch?after=S   epochs and bodies after S, out of the journal; records as in
 *       controlplane/dump/dump_stretch.h. 404: the journal begins later
 *       /v1/epochs?from=S&limit=N&wait_ms=M   published epochs; waits for one when there is none
 *   POST /v1/handover  /v1/term-base?to=T  /v1/dump
 *
 * libmicrohttpd with its external event loop: everything runs on the loop's thread and reads the
 * mailbox's status page only. Limits: 64 connections, 30 s of silence, 16 KiB of request. No
 * authentication: bind it to an address that only operators and peers reach. */
#ifndef MAROON_ADMIN_H
#define MAROON_ADMIN_H

#include <jansson.h>
#include <stdio.h>

#include "controlplane/arbiter.h"
#include "controlplane/dump/dump_turns.h"
#include "controlplane/loop.h"
#include "controlplane/snapshot.h"
#include "controlplane/stretches.h"
#include "dataplane/stages/mailbox.h"

#define ADMIN_ETCD_AWAY_FAILURES 6
#define ADMIN_ETCD_DENIED 3

struct admin;

struct admin_setup {
    struct loop *loop;
    const struct control_config *config;
    struct arbiter *arbiter;
    const struct control_identity *identity;
    struct mailbox *mailbox;
    struct snapshot *snapshot;
    struct stretches *stretches; /* NULL: there is no journal */
    struct dump_turns *dumps;    /* NULL: no store is configured */
    void (*send_down)(void *context, const struct mailbox_down *message);
    void *context;
};

/* Binds config->admin_listen ("A:P", "[A]:P"). Returns 0, MRN_ERR_INVALID (address), MRN_ERR_IO
 * (cannot bind), MRN_ERR_NO_MEMORY. */
int admin_start(const struct admin_setup *setup, struct admin **ret_admin);
/* After snapshot_destroy and stretches_destroy, so that no request waits any more. What asks until
 * then is answered 503: of the setup only loop and arbiter are used, the rest may be gone. NULL is
 * allowed. */
void admin_stop(struct admin *admin);

/* An epoch was published: answers who waits for it. */
void admin_published(struct admin *admin);

/* The bodies, for admin itself and for tests. The caller frees the text; NULL without memory. */
char *admin_status_json(const struct admin_setup *setup);
char *admin_epochs_json(const struct admin_setup *setup, uint64_t from, uint32_t limit);
json_t *admin_alarms(const struct admin_setup *setup, const struct mailbox_facts *facts);
json_t *admin_dumps_json(const struct admin_setup *setup);
json_t *admin_bootstrap_json(const struct admin_setup *setup);
#define ADMIN_ALARM_BYTES 512
/* Whether something stands in the way of dumps; in words. */
bool admin_dumps_alarm(const struct admin_setup *setup, char ret_text[ADMIN_ALARM_BYTES]);
void admin_dumps_metrics(const struct admin_setup *setup, FILE *out);
void admin_bootstrap_metrics(const struct admin_setup *setup, FILE *out);
/* Metrics of one value each. */
struct admin_row {
    const char *name, *type, *help; /* without maroon_ */
    uint64_t value;
};
void admin_rows(FILE *out, const struct admin_row *rows, size_t count);
/* A member that is a number, as a string: it may be above 2^53. */
void admin_number(json_t *object, const char *name, uint64_t number);
char *admin_metrics_text(const struct admin_setup *setup);
/* Returns NULL when ready, otherwise why not. */
const char *admin_not_ready(const struct mailbox_facts *facts);

#endif
