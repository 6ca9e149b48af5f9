/* gateway_core, inside: the state that its files share (see gateway_core.h for what it does).
 *
 * Numbers order everything: answered below `low`, sent below `sent`, with an id below `placed`,
 * taken below `end`. A segment says which numbers have ids in which range; what lies from `placed`
 * on waits for a range with room. Threads, ownership, errors: as gateway_core.h says. */
#ifndef MAROON_GATEWAY_CORE_INTERNAL_H
#define MAROON_GATEWAY_CORE_INTERNAL_H

#include "gateway/core/gateway_core.h"
#include "proto/retired.h"

#define RESEND_MIN_US 3000
#define RESEND_FIRST_MAX_US 200000
#define RESEND_MAX_US 500000
#define HEAD_TRIES_MAX 4     /* 3, 6, 12, 24 ms; then as any other */
#define RESENDS_MAX 64       /* at once */
#define RESEND_LOOK_US 500   /* between two looks through all parts */
#define RESEND_PAUSE_US 1000 /* after so many: nodes that are late are not helped by more */
#define RANGE_ASK_US 200000
#define RENEW_US 1000000
#define PIECES_AHEAD_BYTES 65536 /* of a long result asked for at once */
#define SEGMENTS_MAX 4
#define ENDED_MAX 8
#define QUERY_KEEP_US 2000000
#define QUERY_WAIT_US 50000   /* for a better answer, once one is there */
#define QUERY_DOUBT_US 300000 /* for others to know an id that most do not */
#define NO_ID UINT64_MAX      /* 0 is the first id of range 0 */

struct part {
    uint64_t id;
    uint64_t at_us;             /* next resend; first send while try_count is 0 */
    uint64_t since_us, sent_us; /* submitted; last sent */
    uint16_t length_bytes, parts_following;
    uint8_t try_count;
    bool first, answered, committed; /* committed: an event said so */
    bool kept;                       /* its id is: gateway_core_keep_id */
    void *user;
    uint8_t
        *bytes; /* WIRE_BODY_MAX_BYTES, elsewhere: who looks through all parts reads a line each */
};

struct denial {        /* NOT_OWNER of a range that is held here */
    uint64_t since_us; /* the leader or most nodes say so; 0: they do not */
    uint32_t nodes;    /* whose last word it is, a bit each */
};

struct segment { /* numbers first_number .. of one range */
    uint64_t range, first_number;
    uint32_t first_offset, next_offset;
    uint32_t committed, limit;
    uint64_t limit_commit_seq;
    uint32_t received[WIRE_NODES_MAX];
    uint32_t head; /* position that some node has reached: the next body is what all wait for */
    uint32_t head_tries;
    uint64_t head_at_us; /* when it goes again */
    struct denial denial;
    bool live; /* held: renewed; false once it is sealed */
};

struct ended { /* a holding that is over: the ids [from, to) were given to transactions here */
    uint64_t range;
    uint32_t from, to;
    uint32_t end; /* those below were ordered in it; 0: not known, the range was lost */
};

struct assembly { /* one result that is longer than a packet */
    uint64_t id;  /* NO_ID: none */
    uint32_t owner_mark;
    uint32_t have, total, turn;
    uint64_t at_us; /* when to ask again */
    uint8_t *bytes;
};

struct gateway_core {
    struct gateway_core_config config;
    struct gateway_core_shell shell;
    struct part *parts;
    struct assembly own, asked; /* of a transaction outstanding; of gateway_core_query */
    uint64_t low, sent, placed, end;
    struct segment segments[SEGMENTS_MAX];
    uint32_t segment_first, segment_count; /* the last one is handed out from */
    struct ended ended[ENDED_MAX]; /* the last ones, newest at (ended_count - 1) % ENDED_MAX */
    uint64_t ended_count;
    uint64_t next_range;
    uint32_t next_start;
    struct denial next_denial;
    bool had_range; /* a grant came: the pinned range is never asked for again */
    uint64_t range_nonce, ask_at_us, renew_at_us, resend_at_us; /* of any part, at the earliest */
    uint8_t ask_node, leader;
    uint64_t heard_us[WIRE_NODES_MAX], latency_us;
    uint64_t quickest_us; /* of all answers */
    struct {              /* gateway_core_query; id NO_ID: none */
        uint64_t id, since_us, until_us;
        uint32_t owner_mark;
        uint32_t answered, outcome; /* nodes, a bit each; the best they said */
        bool sealed;                /* said one of them, of whoever's */
    } query;
    uint64_t submitted, answered, resent, resubmitted, window_full, sealed, queries, range_held_by;
    uint64_t lost, doubt;
    uint32_t range_outcome;
};

static inline struct part *part_at(const struct gateway_core *c, uint64_t number) {
    return &c->parts[number & (c->config.parts_max - 1)];
}

static inline struct segment *segment_at(const struct gateway_core *c, uint32_t i) {
    return (struct segment *)&c->segments[(c->segment_first + i) % SEGMENTS_MAX];
}

static inline struct segment *segment_now(const struct gateway_core *c) {
    return c->segment_count ? segment_at(c, c->segment_count - 1) : NULL;
}

static inline struct segment *segment_of(const struct gateway_core *c, uint64_t range) {
    for (uint32_t i = 0; i < c->segment_count; i++)
        if (segment_at(c, i)->range == range)
            return segment_at(c, i);
    return NULL;
}

static inline uint32_t own_mark(const struct gateway_core *c) {
    return retired_mark(c->config.owner);
}

static inline void event_tell(const struct gateway_core *c, enum gateway_core_event_kind kind,
                              const struct part *p) {
    struct gateway_core_event event = {kind, p->id, p->user};
    if (c->shell.event)
        c->shell.event(c->shell.context, &event);
}

/* ---- core_ranges.c ---- */

/* Is there room for so many parts in a range that is held? May move to the next one. */
bool gateway_ranges_room(struct gateway_core *c, uint32_t parts);

/* Gives ids to what waits for them, in order, as far as ranges have room. */
void gateway_ranges_place(struct gateway_core *c);

/* Drops the segments in which everything is answered, and gives their ranges back. */
void gateway_ranges_trim(struct gateway_core *c);

/* Was the id given to a transaction of this gateway? Then it is asked for with *ret_mark, so that
 * the answer is about that one; 0: any answer is, the id is nobody else's. Of holdings longer ago
 * than ENDED_MAX that is not known. */
bool gateway_ranges_gave(const struct gateway_core *c, uint64_t id, uint32_t *ret_mark);

/* Asks for a range when one is needed, renews those held. */
void gateway_ranges_tick(struct gateway_core *c, uint64_t now_us);

enum wire_drop gateway_ranges_granted(struct gateway_core *c, const struct wire_range_grant *grant);
enum wire_drop gateway_ranges_sealed(struct gateway_core *c, const struct wire_sealed *seal);
enum wire_drop gateway_ranges_denied(struct gateway_core *c, uint64_t now_us, uint8_t node,
                                     const struct wire_not_owner *answer);
/* A node speaks of the range as of ours. */
void gateway_ranges_affirmed(struct gateway_core *c, uint8_t node, uint64_t range);

/* ---- core_results.c ---- */

/* The part that begins the transaction of this id, sent and not answered; or NULL. */
struct part *gateway_results_part(const struct gateway_core *c, uint64_t id);
/* For the result of a transaction of this gateway: of the leader, or of every node; that which has
 * it answers. */
void gateway_results_ask_leader(struct gateway_core *c, uint64_t id);
void gateway_results_ask_all(struct gateway_core *c, uint64_t id);
void gateway_results_tick(struct gateway_core *c, uint64_t now_us);
enum wire_drop gateway_results_frame(struct gateway_core *c, uint64_t now_us,
                                     const struct wire_frame *frame);
enum wire_drop gateway_results_state(struct gateway_core *c, uint64_t now_us, uint8_t node,
                                     const struct wire_frame *frame);

#endif
