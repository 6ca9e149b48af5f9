/* gateway_core: one gateway's side of the protocol (protocol.md §3, §8), pure.
 *
 *   no range --GRANT--> holding --90 % used: asks for the next--> holding two --first one full-->
 * holding one; --NOT_OWNER of the leader or of most nodes, for lost_after_us--> no range
 * transaction: submitted --window--> sent to every node --resend--> RESULT --> done
 * (called back, forgotten) sent --SEALED--> submitted again under another id of the next range
 *
 * Vocabulary
 *   part     one body of at most WIRE_BODY_MAX_BYTES; a transaction is one or more parts on
 * consecutive offsets number   place of a part in the order of submission, over all ranges; the
 * ring of parts is indexed by it window   how far beyond the range's committed position a part may
 * be sent; its limit never goes back
 *
 * Purity: no clock, malloc, socket, log, random source: time, memory and the owner token are given.
 * What must be sent and what is done goes out through the two calls of struct gateway_core_shell,
 * inside a call of this module. Threads: one at a time. Ownership: payloads are copied; bytes given
 * to the shell live until its call returns. Invariants (gateway_core_check): I1 low <= sent <=
 * placed <= end, end - low <= parts_max. I2 no id is handed out twice. I3 nothing is sent beyond
 * its range's limit. */
#ifndef MAROON_GATEWAY_CORE_H
#define MAROON_GATEWAY_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/wire.h"

#define GATEWAY_CORE_RESULTS_LAG \
    1024 /* answered results that nodes go on keeping, for queries by id */
#define GATEWAY_CORE_EXPIRED \
    UINT32_MAX /* code of a transaction that was executed, its result no longer kept */
#define GATEWAY_CORE_DOUBT                                                                       \
    2 /* Connect's "unknown", with a message and epoch_seq 0: its range is another's, nobody can \
         tell */
#define GATEWAY_CORE_LOST_US 3000000 /* NOT_OWNER for so long: the range is lost */

struct gateway_core_config {
    uint64_t owner;                 /* random, not 0: names this process until a grant says more */
    uint64_t pinned_range;          /* WIRE_RANGE_NONE: ask for one */
    uint8_t node_count;             /* nodes are 0..node_count-1, in the shell's order */
    uint32_t parts_max;             /* parts outstanding; power of two */
    uint32_t transaction_max_bytes; /* payload */
    uint32_t result_max_bytes;
    uint64_t lost_after_us; /* 0: GATEWAY_CORE_LOST_US */
};

struct gateway_core_done {
    void *user; /* of the submission */
    uint64_t id, epoch_seq, logical_time_us, latency_us;
    uint32_t code;        /* 0 ok, a Connect code, or GATEWAY_CORE_EXPIRED */
    const uint8_t *bytes; /* response, or message */
    uint32_t length_bytes;
};

struct gateway_core_state { /* what became of an id that was asked for */
    uint64_t id, epoch_seq;
    uint32_t outcome; /* enum wire_tx_outcome; the rest only with EXECUTED */
    uint32_t code, method_key;
    const uint8_t *bytes; /* of the whole result */
    uint32_t length_bytes;
};

enum gateway_core_event_kind {
    GATEWAY_CORE_SENT =
        1, /* its first part went out under `id`; once more under another after SEALED */
    GATEWAY_CORE_COMMITTED, /* a node says so, or it has a result; once, before done */
    GATEWAY_CORE_SEALED     /* `id` never executes: done under another id, unless it is kept */
};

struct gateway_core_event {
    enum gateway_core_event_kind kind;
    uint64_t id;
    void *user; /* of the submission */
};

struct gateway_core_shell {
    void *context;
    /* Sends one frame to a node: payload, then tail. May lose it. */
    void (*send)(void *context, uint8_t node, enum wire_kind kind, const void *payload,
                 uint32_t payload_bytes, const void *tail, uint32_t tail_bytes);
    /* A transaction has its result. */
    void (*done)(void *context, const struct gateway_core_done *done);
    /* A TX_QUERY of gateway_core_query was answered; bytes only when outcome is EXECUTED. */
    void (*state)(void *context, const struct gateway_core_state *state);
    /* The ranges held have changed: {now, next}, WIRE_RANGE_NONE where not. Both, and all that is
     * sent from now on, are of `owner`: it changes once, with the grant of a pinned range. */
    void (*ranges)(void *context, uint64_t owner, const uint64_t ranges[2]);
    /* NULL: not wanted. */
    void (*event)(void *context, const struct gateway_core_event *event);
};

struct gateway_core;

/* Bytes of memory for this config, 0 when it is not allowed. */
size_t gateway_core_size(const struct gateway_core_config *config);

/* Makes a core in `memory` (aligned to 64). */
struct gateway_core *gateway_core_init(void *memory, const struct gateway_core_config *config,
                                       const struct gateway_core_shell *shell, uint64_t now_us);

/* Takes a transaction. `key`: 16 bytes of idempotency key or NULL; `request_hash`: 16 bytes, with
 * key. Returns 0 and *ret_id (the id so far: after
 * SEALED it may be done under another); MRN_ERR_FULL (too many outstanding, or the window is full:
 * wait), MRN_ERR_UNAVAILABLE (no range yet), MRN_ERR_TOO_LARGE. */
int gateway_core_submit(struct gateway_core *core, uint64_t now_us, uint32_t service,
                        uint32_t method, const void *payload, uint32_t length_bytes,
                        const uint8_t *key, const uint8_t *request_hash, void *user,
                        uint64_t *ret_id);

/* The id was told to somebody who may ask for it: if it is sealed off, its transaction is done
 * (code aborted, never executed) and not sent under another id. Returns whether `id` is
 * outstanding. */
bool gateway_core_keep_id(struct gateway_core *core, uint64_t id);

/* Asks the nodes what became of any id; answered by shell->state, or never. An id may be used again
 * by its range's next owner: `owner_mark` (proto/retired.h) says whose transaction is meant, and
 * what became of another's is not told. 0: this gateway's, if it gave the id; else whoever's. */
void gateway_core_query(struct gateway_core *core, uint64_t now_us, uint64_t id,
                        uint32_t owner_mark);

/* Takes one checked frame from node `node`. Returns WIRE_DROP_NONE, or why it was refused. */
enum wire_drop gateway_core_frame(struct gateway_core *core, uint64_t now_us, uint8_t node,
                                  const struct wire_frame *frame);

/* Sends what may be sent and what must be sent again. Call at least every millisecond while
 * something is outstanding. */
void gateway_core_tick(struct gateway_core *core, uint64_t now_us);

struct gateway_core_facts {
    uint64_t owner;             /* token under which ranges are held, or asked for */
    uint64_t range, next_range; /* WIRE_RANGE_NONE: not held */
    uint32_t offset, committed, limit;
    uint32_t outstanding_parts;
    uint8_t leader;       /* node that last said it leads; 255: none */
    uint32_t nodes_heard; /* within the last second */
    uint64_t submitted, answered, resent, resubmitted, window_full, sealed, queries;
    uint64_t lost, doubt;   /* ranges that turned out to be others'; transactions that ended so */
    uint32_t range_outcome; /* of the last RANGE_GRANT, enum wire_range_outcome */
    uint64_t range_held_by; /* when it was TAKEN */
};
void gateway_core_facts(const struct gateway_core *core, uint64_t now_us,
                        struct gateway_core_facts *ret_facts);

/* NULL, or the name of the invariant that is broken. */
const char *gateway_core_check(const struct gateway_core *core);

#endif
