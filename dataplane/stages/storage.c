#include "dataplane/stages/storage.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <maroon/error.h>

#include "dataplane/stages/replay_plan.h"

#define QUEUE_BYTES (16u << 20)
#define QUEUE_PRESSED_BYTES (4u << 20)
#define NO_POSITION UINT64_MAX

/* A complete local snapshot: what a replay on top of it needs lies at or above the mark. */
struct covered {
    uint64_t seq, mark;
    uint64_t appended_bytes; /* ever, as the mark was made */
};

#define COVERED_MAX 64

struct dropped {    /* a record's bytes */
    uint64_t range; /* REPLICA_RANGES_ALL: all, what no epoch so far names */
    uint32_t from;
} __attribute__((packed));

struct waiting { /* in the queue, followed by its bytes, padded to 8 */
    uint32_t length_bytes;
    uint32_t kind;
};

struct storage {
    struct storage_config config;
    char directory[512];
    struct journal *journal;
    struct replay_plan *plan;
    bool exists, promised, broken;       /* broken: the journal has failed */
    uint8_t promise[17];                 /* newest, as in its record */
    uint64_t *epoch_position;            /* by seq modulo log_epochs */
    uint64_t next;                       /* position of the next append, queued ones counted */
    uint64_t base;                       /* position of the replica's record 0 */
    uint64_t shift_at, base_before;      /* records below shift_at count from base_before */
    uint64_t told;                       /* replica's position last said to be stable */
    uint64_t appended_bytes;             /* ever; at the start: what the journal holds */
    uint64_t covered_bytes;              /* of them, what the newest snapshot covers */
    uint64_t marked_bytes;               /* appended_bytes as the last mark was made */
    uint64_t cut_bytes, cut_seq;         /* of them, what was let go; up to which epoch */
    struct covered covered[COVERED_MAX]; /* oldest first */
    uint32_t covered_count;
    uint64_t replayed_bytes; /* records seen by the replay so far */
    bool uncovered_seen;     /* the replay has come to what the snapshot does not cover */
    uint64_t replay_at;      /* position of the record being replayed */
    const struct storage_replay *replay;
    uint8_t *queue;
    uint32_t queue_head, queue_bytes; /* ring of QUEUE_BYTES: first byte, bytes in use */
};

/* ---- first look ---- */

int storage_covered(struct storage *s, uint64_t range, uint32_t position) {
    return replay_plan_covered(s->plan, range, position);
}

/* The record's epoch, or NULL when it is none. Records are checksummed: what is wrong here was
 * written wrong, or by another version. */
static const uint8_t *epoch_of(const uint8_t *bytes, uint32_t length_bytes) {
    if (length_bytes < 8 + sizeof(struct wire_epoch_head) ||
        wire_epoch_check(bytes + 8, length_bytes - 8) != WIRE_DROP_NONE)
        return NULL;
    return bytes + 8;
}

static int look_at(void *context, enum journal_kind kind, uint64_t position, const uint8_t *bytes,
                   uint32_t length_bytes) {
    struct storage *s = context;
    struct dropped dropped;
    uint64_t id;
    const uint8_t *epoch;
    switch (kind) {
    case JOURNAL_PROMISE:
        if (length_bytes != sizeof s->promise)
            return MRN_ERR_CORRUPT;
        s->promised = true;
        memcpy(s->promise, bytes, sizeof s->promise);
        return 0;
    case JOURNAL_EPOCH:
        epoch = epoch_of(bytes, length_bytes);
        return epoch ? replay_plan_epoch(s->plan, epoch) : MRN_ERR_CORRUPT;
    case JOURNAL_BODY:
        if (length_bytes < sizeof id)
            return MRN_ERR_CORRUPT;
        memcpy(&id, bytes, sizeof id);
        return replay_plan_body(s->plan, id);
    case JOURNAL_DROP:
        if (length_bytes != sizeof dropped)
            return MRN_ERR_CORRUPT;
        memcpy(&dropped, bytes, sizeof dropped);
        return replay_plan_dropped(s->plan, position, dropped.range, dropped.from);
    case JOURNAL_COMMIT: return length_bytes == sizeof(uint64_t) ? 0 : MRN_ERR_CORRUPT;
    case JOURNAL_INCARNATIONS:
    case JOURNAL_GENESIS:
    case JOURNAL_RANGE:
    case JOURNAL_BASE: return 0; /* replay_record judges */
    }
    return 0;
}

int storage_open(const struct storage_config *config, struct storage **ret_storage, char *text) {
    struct storage *s = calloc(1, sizeof *s);
    struct journal_report report;
    struct stat status;
    char store[600];
    if (!s) {
        snprintf(text, JOURNAL_TEXT_BYTES, "no memory");
        return MRN_ERR_NO_MEMORY;
    }
    s->config = *config;
    s->epoch_position = malloc(config->log_epochs * sizeof *s->epoch_position);
    s->queue = malloc(QUEUE_BYTES);
    s->plan = replay_plan_new();
    snprintf(s->directory, sizeof s->directory, "%s/journal", config->data_dir);
    snprintf(store, sizeof store, "%s/store", s->directory);
    int error = s->epoch_position && s->queue && s->plan ? 0 : MRN_ERR_NO_MEMORY;
    snprintf(text, JOURNAL_TEXT_BYTES, "no memory");
    if (!error) {
        for (uint32_t i = 0; i < config->log_epochs; i++)
            s->epoch_position[i] = NO_POSITION;
        s->exists = stat(store, &status) == 0;
        error = s->exists ? journal_read(s->directory, look_at, s, &report, text) : 0;
    }
    if (error)
        storage_close(s);
    else
        *ret_storage = s;
    return error;
}

bool storage_promised(const struct storage *s) {
    return s->promised;
}

/* ---- replay ---- */

static int replay_promise(struct storage *s, const uint8_t *bytes) {
    struct replica_event event = {.kind = REPLICA_EVENT_REPLAY_PROMISE};
    memcpy(&event.replay_promise.term, bytes, 8);
    memcpy(&event.replay_promise.token, bytes + 8, 8);
    event.replay_promise.winner = bytes[16];
    return s->replay->step(s->replay->context, &event);
}

static int replay_epoch(struct storage *s, const uint8_t *bytes, uint32_t length_bytes) {
    const struct wire_epoch_head *head = (const void *)(bytes + 8);
    struct replica_event event = {.kind = REPLICA_EVENT_REPLAY_EPOCH};
    memcpy(&event.replay_epoch.commit_seq, bytes, 8);
    event.replay_epoch.bytes = bytes + 8;
    event.replay_epoch.length_bytes = length_bytes - 8;
    s->epoch_position[head->seq % s->config.log_epochs] = s->replay_at;
    if (head->seq > s->replay->snapshot_seq && !s->uncovered_seen) {
        s->uncovered_seen = true;
        s->covered_bytes = s->replayed_bytes;
    }
    return s->replay->step(s->replay->context, &event);
}

static int replay_body(struct storage *s, const uint8_t *bytes, uint32_t length_bytes) {
    uint64_t id;
    struct wire_body_header header;
    if (length_bytes < sizeof id + sizeof header || length_bytes - sizeof id > WIRE_BODY_MAX_BYTES)
        return MRN_ERR_CORRUPT;
    memcpy(&id, bytes, sizeof id);
    bytes += sizeof id;
    length_bytes -= (uint32_t)sizeof id;
    if (!replay_plan_takes(s->plan, s->replay_at, id))
        return 0;
    uint32_t slot = stage_bodies_take(s->config.bodies, id, bytes, length_bytes);
    if (slot == BODIES_SLOT_NONE)
        return MRN_ERR_FULL;
    s->config.bodies->positions[slot] = s->replay_at;
    memcpy(&header, bytes, sizeof header);
    struct replica_event event = {.kind = REPLICA_EVENT_REPLAY_BODY};
    event.replay_body = (struct replica_event_body){
        .id = id,
        .digest = wire_hash_body(s->replay->digest_key, id, bytes, length_bytes),
        .slot = slot,
        .parts_following = header.parts_following,
        .peer = REPLICA_NODE_NONE};
    return s->replay->step(s->replay->context, &event);
}

static int replay_commit(struct storage *s, const uint8_t *bytes) {
    struct replica_event event = {.kind = REPLICA_EVENT_REPLAY_COMMIT};
    memcpy(&event.replay_commit.commit_seq, bytes, 8);
    return s->replay->step(s->replay->context, &event);
}

static int replay_record(void *context, enum journal_kind kind, uint64_t position,
                         const uint8_t *bytes, uint32_t length_bytes) {
    struct storage *s = context;
    s->replay_at = position;
    s->replayed_bytes += length_bytes;
    switch (kind) {
    case JOURNAL_PROMISE: return replay_promise(s, bytes);
    case JOURNAL_EPOCH: return replay_epoch(s, bytes, length_bytes);
    case JOURNAL_BODY: return replay_body(s, bytes, length_bytes);
    case JOURNAL_COMMIT: return replay_commit(s, bytes);
    case JOURNAL_DROP: return 0; /* the plan knows */
    case JOURNAL_INCARNATIONS:
    case JOURNAL_GENESIS:
    case JOURNAL_RANGE:
    case JOURNAL_BASE: return 0; /* written by no version so far */
    }
    return MRN_ERR_CORRUPT;
}

int storage_replay(struct storage *s, const struct storage_replay *replay, char *text) {
    struct journal_config config = {.directory = s->directory,
                                    .identity = s->config.identity,
                                    .create = 1,
                                    .segment_bytes = s->config.segment_bytes,
                                    .body_sync_delay_ns = s->config.body_sync_delay_ns};
    s->replay = replay;
    int error = journal_open(&config, replay_record, s, &s->journal, text);
    s->replay = NULL;
    replay_plan_free(s->plan);
    s->plan = NULL;
    if (error)
        return error;
    /* What the replica appended while it was restored waits in the queue. */
    s->base = s->base_before = journal_next(s->journal);
    s->next += s->base;
    s->appended_bytes += s->replayed_bytes;
    if (!s->uncovered_seen)
        s->covered_bytes = s->replayed_bytes;
    return 0;
}

void storage_close(struct storage *s) {
    if (!s)
        return;
    (void)journal_close(s->journal); /* what failed was told when it did */
    replay_plan_free(s->plan);
    free(s->epoch_position);
    free(s->queue);
    free(s);
}

/* ---- appends ---- */

static void queue_put(struct storage *s, const void *bytes, uint32_t length_bytes) {
    uint32_t at = (s->queue_head + s->queue_bytes) % QUEUE_BYTES;
    uint32_t first = length_bytes < QUEUE_BYTES - at ? length_bytes : QUEUE_BYTES - at;
    assert(length_bytes <= QUEUE_BYTES - s->queue_bytes);
    memcpy(s->queue + at, bytes, first);
    memcpy(s->queue, (const uint8_t *)bytes + first, length_bytes - first);
    s->queue_bytes += length_bytes;
}

static void queue_get(struct storage *s, void *bytes, uint32_t length_bytes) {
    uint32_t first =
        length_bytes < QUEUE_BYTES - s->queue_head ? length_bytes : QUEUE_BYTES - s->queue_head;
    memcpy(bytes, s->queue + s->queue_head, first);
    memcpy((uint8_t *)bytes + first, s->queue, length_bytes - first);
    s->queue_head = (s->queue_head + length_bytes) % QUEUE_BYTES;
    s->queue_bytes -= length_bytes;
}

static int put(struct storage *s, enum journal_kind kind, uint64_t position,
               const struct journal_piece pieces[2], uint64_t now_ns) {
    bool urgent = kind == JOURNAL_EPOCH || kind == JOURNAL_PROMISE; /* somebody waits for it */
    return journal_append(s->journal, kind, position, pieces, urgent, now_ns);
}

static void append(struct storage *s, enum journal_kind kind, const struct journal_piece pieces[2],
                   uint64_t now_ns) {
    struct waiting waiting = {pieces[0].length_bytes + pieces[1].length_bytes, kind};
    uint64_t position = s->next++;
    s->appended_bytes += waiting.length_bytes;
    if (s->journal && !s->queue_bytes && !s->broken) { /* at the start there is none yet */
        int error = put(s, kind, position, pieces, now_ns);
        if (!error)
            return;
        s->broken = error != MRN_ERR_FULL;
    }
    if (s->broken) /* storage_poll tells; nothing is stable any more */
        return;
    queue_put(s, &waiting, sizeof waiting);
    queue_put(s, pieces[0].bytes, pieces[0].length_bytes);
    if (pieces[1].length_bytes) /* else it may be NULL, which memcpy forbids */
        queue_put(s, pieces[1].bytes, pieces[1].length_bytes);
}

/* Gives the journal what waits, as far as it takes it. */
static void queue_drain(struct storage *s, uint64_t now_ns) {
    static _Thread_local uint8_t record[JOURNAL_RECORD_MAX_BYTES];
    uint64_t position = journal_next(s->journal);
    while (s->queue_bytes) {
        uint32_t head = s->queue_head, bytes = s->queue_bytes;
        struct waiting waiting;
        queue_get(s, &waiting, sizeof waiting);
        queue_get(s, record, waiting.length_bytes);
        const struct journal_piece pieces[2] = {{record, waiting.length_bytes}, {NULL, 0}};
        int error = put(s, (enum journal_kind)waiting.kind, position++, pieces, now_ns);
        if (error) {
            s->broken = error != MRN_ERR_FULL;
            s->queue_head = head;
            s->queue_bytes = bytes;
            return;
        }
    }
}

void storage_append(struct storage *s, const struct replica_action *a, uint64_t now_ns) {
    /* While a replay runs there is no base yet: the positions of what waits begin at 0. */
    assert(s->base + a->position == s->next);
    if (a->kind == REPLICA_ACTION_APPEND_BODY) {
        struct body *body = &s->config.bodies->slots[a->slot];
        assert(body->taken && body->id == a->id);
        s->config.bodies->positions[a->slot] = s->next;
        const struct journal_piece pieces[2] = {{&body->id, sizeof body->id},
                                                {body->bytes, body->length_bytes}};
        append(s, JOURNAL_BODY, pieces, now_ns);
    } else if (a->kind == REPLICA_ACTION_APPEND_EPOCH) {
        const struct wire_epoch_head *head = (const void *)a->tail;
        s->epoch_position[head->seq % s->config.log_epochs] = s->next;
        const struct journal_piece pieces[2] = {{&a->seq, sizeof a->seq}, {a->tail, a->tail_bytes}};
        append(s, JOURNAL_EPOCH, pieces, now_ns);
    } else if (a->kind == REPLICA_ACTION_APPEND_DROP) {
        struct dropped dropped = {a->range, a->end};
        const struct journal_piece pieces[2] = {{&dropped, sizeof dropped}, {NULL, 0}};
        append(s, JOURNAL_DROP, pieces, now_ns);
    } else if (a->kind == REPLICA_ACTION_APPEND_COMMIT) {
        const struct journal_piece pieces[2] = {{&a->seq, sizeof a->seq}, {NULL, 0}};
        append(s, JOURNAL_COMMIT, pieces, now_ns);
    } else {
        assert(a->kind == REPLICA_ACTION_APPEND_PROMISE);
        memcpy(s->promise, &a->term, 8);
        memcpy(s->promise + 8, &a->token, 8);
        s->promise[16] = a->peer;
        s->promised = true;
        const struct journal_piece pieces[2] = {{s->promise, sizeof s->promise}, {NULL, 0}};
        append(s, JOURNAL_PROMISE, pieces, now_ns);
    }
}

bool storage_pressed(const struct storage *s) {
    return s->queue_bytes > QUEUE_PRESSED_BYTES;
}

int storage_poll(struct storage *s, uint64_t now_ns, uint64_t *ret_position,
                 const char **ret_text) {
    if (s->queue_bytes)
        queue_drain(s, now_ns);
    journal_poll(s->journal, now_ns);
    int error = journal_failed(s->journal, ret_text);
    if (error)
        return error;
    uint64_t stable = journal_stable(s->journal);
    uint64_t position = stable - (stable > s->shift_at ? s->base : s->base_before);
    if (position <= s->told)
        return 0;
    *ret_position = s->told = position;
    return 1;
}

bool storage_idle(const struct storage *s) {
    return !s->queue_bytes && journal_idle(s->journal);
}

uint64_t storage_waiting_ns(const struct storage *s, uint64_t now_ns) {
    return journal_waiting_ns(s->journal, now_ns);
}

uint64_t storage_grown_bytes(const struct storage *s) {
    return s->appended_bytes - s->covered_bytes;
}

/* ---- what a snapshot covers ---- */

uint64_t storage_mark(struct storage *s, uint64_t seq, uint64_t last_seq) {
    const struct bodies *bodies = s->config.bodies;
    uint64_t mark = s->next;
    for (uint32_t i = 0; i < bodies->count; i++)
        mark = bodies->positions[i] < mark ? bodies->positions[i] : mark;
    for (uint64_t at = seq + 1; at <= last_seq; at++) {
        uint64_t position = s->epoch_position[at % s->config.log_epochs];
        mark = position < mark ? position : mark;
    }
    s->marked_bytes = s->appended_bytes;
    return mark;
}

void storage_cut(struct storage *s, uint64_t seq, uint64_t mark) {
    if (s->covered_count == COVERED_MAX) { /* the oldest but one stands for both */
        memmove(&s->covered[1], &s->covered[2], (COVERED_MAX - 2) * sizeof *s->covered);
        s->covered_count--;
    }
    s->covered[s->covered_count++] = (struct covered){seq, mark, s->marked_bytes};
    s->covered_bytes = s->marked_bytes;
}

void storage_trim(struct storage *s, uint64_t floor_seq, uint64_t now_ns) {
    uint64_t stable = journal_stable(s->journal), mark = 0;
    uint32_t count = 0;
    while (count < s->covered_count && s->covered[count].mark <= stable &&
           (s->covered[count].seq <= floor_seq ||
            s->appended_bytes - s->cut_bytes > s->config.retain_bytes)) {
        mark = s->covered[count].mark;
        s->cut_seq = s->covered[count].seq;
        s->cut_bytes = s->covered[count++].appended_bytes;
    }
    if (!count)
        return;
    s->covered_count -= count;
    memmove(s->covered, &s->covered[count], s->covered_count * sizeof *s->covered);
    journal_release(s->journal, mark);
    /* The newest promise holds its segment and all later ones: once more, further up. */
    if (s->promised && stable > s->shift_at) {
        const struct journal_piece pieces[2] = {{s->promise, sizeof s->promise}, {NULL, 0}};
        s->base_before = s->base;
        s->shift_at = s->next;
        append(s, JOURNAL_PROMISE, pieces, now_ns);
        s->base++;
    }
}

uint64_t storage_cut_seq(const struct storage *s) {
    return s->cut_seq;
}

struct journal *storage_journal(const struct storage *s) {
    return s->journal;
}
