#include "controlplane/dump/dump_journal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/dump/dump_stretch.h"
#include "dataplane/journal/journal_follow.h"
#include "dataplane/replica/mutant.h"
#include "maroon/error.h"

#define BUCKETS (1u << 16)
#define WINDOW_MAX (UINT32_C(1) << 24) /* epochs that wait */
#define PATIENCE 8                     /* marks: a body older than so many keeps none back */
#define MARK_SHIFT 11                  /* a mark each 8 MiB of blocks, and each segment */
#define RANGES (1u << 12)              /* remembered: how far they are settled */

struct held_body {
    struct held_body *next;
    uint64_t id, place;
    uint32_t length_bytes;
    uint8_t bytes[];
};

struct held_epoch {
    uint8_t *bytes; /* NULL: none yet */
    uint32_t length_bytes;
    uint64_t place;
    struct wire_hash hash;
};

struct settled {
    uint64_t range, end_id; /* ids of it below were handed out or let go; end_id 0: none */
};

struct collecting {
    struct dump_journal *journal;
    const struct dump_journal_span *span;
    dump_journal_emit *emit;
    void *context;
    struct held_body **bodies; /* BUCKETS chains, the newest under an id first */
    struct settled *settled;   /* RANGES, the newest of those that share a place */
    struct held_epoch *window; /* of epochs next, next + 1, ... */
    uint32_t window_count, window_room, window_first;
    uint64_t next;              /* 0: no epoch was seen yet */
    uint64_t committed;         /* as far as a record says */
    bool begun;                 /* handing out */
    bool passed;                /* something was handed out or let go: next goes back no more */
    struct wire_hash hash;      /* of the last one handed out */
    uint64_t place;             /* of the record at hand */
    uint64_t marked;            /* the same when the last mark was made, shifted */
    uint64_t earlier[PATIENCE]; /* the same at the last marks */
    bool late;                  /* begun behind the first record */
    struct dump_bytes record;
    char *text;
};

static int no_memory(struct collecting *c) {
    snprintf(c->text, DUMP_TEXT_BYTES, "no memory");
    return MRN_ERR_NO_MEMORY;
}

static int malformed(struct collecting *c) {
    snprintf(c->text, DUMP_TEXT_BYTES, "the journal holds a record that cannot be");
    return MRN_ERR_CORRUPT;
}

/* ---- bodies ---- */

static struct held_body **bucket(struct collecting *c, uint64_t id) {
    return &c->bodies[id * UINT64_C(0x9e3779b97f4a7c15) >> 48 & (BUCKETS - 1)];
}

static const struct held_body *body_find(struct collecting *c, uint64_t id) {
    for (const struct held_body *body = *bucket(c, id); body; body = body->next)
        if (body->id == id)
            return body;
    return NULL;
}

static void body_drop(struct collecting *c, uint64_t id) {
    struct held_body **at = bucket(c, id);
    while (*at) {
        struct held_body *body = *at;
        if (body->id != id) {
            at = &body->next;
            continue;
        }
        *at = body->next;
        free(body);
    }
}

static struct settled *settled_of(struct collecting *c, uint64_t id) {
    return &c->settled[wire_tx_range(id) % RANGES];
}

/* A body that came again after its epoch: nothing names it any more. */
static bool is_settled(struct collecting *c, uint64_t id) {
    const struct settled *settled = settled_of(c, id);
    return settled->range == wire_tx_range(id) && id < settled->end_id;
}

/* Of several records under one id the newest is the one. */
static int take_body(struct collecting *c, const uint8_t *bytes, uint32_t length_bytes) {
    uint64_t id;
    if (length_bytes < sizeof id || length_bytes - sizeof id > WIRE_BODY_MAX_BYTES)
        return malformed(c);
    memcpy(&id, bytes, sizeof id);
    length_bytes -= (uint32_t)sizeof id;
    if (is_settled(c, id))
        return 0;
    struct held_body *body = malloc(sizeof *body + length_bytes);
    if (!body)
        return no_memory(c);
    body_drop(c, id);
    struct held_body **at = bucket(c, id);
    *body = (struct held_body){*at, id, c->place, length_bytes};
    memcpy(body->bytes, bytes + sizeof id, length_bytes);
    *at = body;
    return 0;
}

/* ---- epochs ---- */

static struct held_epoch *window_at(const struct collecting *c, uint64_t seq) {
    return &c->window[c->window_first + (uint32_t)(seq - c->next)];
}

static void window_cut(struct collecting *c, uint64_t from) {
    while (c->window_count && (!c->next || c->next + c->window_count > from)) {
        struct held_epoch *last = &c->window[c->window_first + --c->window_count];
        free(last->bytes);
        *last = (struct held_epoch){0};
    }
}

static int window_grow(struct collecting *c, uint32_t count) {
    if (count > WINDOW_MAX)
        return no_memory(c);
    if (c->window_first + count > c->window_room) {
        uint32_t room = 2 * (count + 64);
        struct held_epoch *grown = calloc(room, sizeof *grown);
        if (!grown)
            return no_memory(c);
        if (c->window_count)
            memcpy(grown, c->window + c->window_first, c->window_count * sizeof *grown);
        free(c->window);
        c->window = grown;
        c->window_room = room;
        c->window_first = 0;
    }
    c->window_count = count;
    return 0;
}

static bool continues(const struct collecting *c, const struct wire_epoch_head *head) {
    if (head->seq > c->next + c->window_count)
        return false;
    return head->seq <= c->next || !memcmp(head->previous_hash, &window_at(c, head->seq - 1)->hash,
                                           sizeof head->previous_hash);
}

/* "A seq at or below the last one replaces it and all above." */
static int window_put(struct collecting *c, const uint8_t *epoch, uint32_t length_bytes) {
    uint64_t seq = ((const struct wire_epoch_head *)epoch)->seq;
    if (c->next && seq < c->next && c->passed)
        return 0;                                        /* settled */
    if (c->next && !continues(c, (const void *)epoch)) { /* a snapshot was restored in between */
        if (c->begun)
            return MRN_ERR_NOT_FOUND;
        window_cut(c, 0);
        memset(c->settled, 0, RANGES * sizeof *c->settled);
        c->passed = false;
        c->next = 0;
    }
    if (!c->next || seq < c->next) {
        window_cut(c, 0);
        c->next = seq;
    }
    window_cut(c, seq);
    int error = window_grow(c, (uint32_t)(seq - c->next + 1));
    if (error)
        return error;
    uint8_t *copy = malloc(length_bytes);
    if (!copy)
        return no_memory(c);
    memcpy(copy, epoch, length_bytes);
    *window_at(c, seq) =
        (struct held_epoch){copy, length_bytes, c->place, wire_hash_blake2b(copy, length_bytes)};
    return 0;
}

static void window_pop(struct collecting *c) {
    struct held_epoch *first = window_at(c, c->next);
    const struct wire_epoch_head *head = (const void *)first->bytes;
    const struct wire_interval *v = wire_epoch_intervals(first->bytes);
    for (uint32_t i = 0; i < head->interval_count; i++) {
        for (uint32_t n = 0; n < v[i].count; n++)
            body_drop(c, v[i].first_id + n);
        *settled_of(c, v[i].first_id) =
            (struct settled){wire_tx_range(v[i].first_id), v[i].first_id + v[i].count};
    }
    free(first->bytes);
    *first = (struct held_epoch){0};
    c->window_first++;
    c->window_count--;
    c->next++;
    c->passed = true;
}

/* Lays the record out, the bodies in execution order. 1; 0 when one is not here yet. */
static int lay(struct collecting *c, const struct held_epoch *e) {
    const struct wire_epoch_head *epoch = (const void *)e->bytes;
    const struct wire_interval *intervals = wire_epoch_intervals(e->bytes);
    struct dump_record_head head = {.epoch_bytes = (uint16_t)e->length_bytes};
    c->record.count = 0;
    if (!dump_bytes_add(&c->record, &head, sizeof head) ||
        !dump_bytes_add(&c->record, e->bytes, e->length_bytes))
        return no_memory(c);
    for (uint32_t i = 0; i < epoch->interval_count; i++) {
        const struct wire_interval *v = &intervals[(epoch->seq + i) % epoch->interval_count];
        for (uint32_t n = 0; n < v->count; n++, head.body_count++) {
            const struct held_body *body = body_find(c, v->first_id + n);
            if (!body)
                return 0;
            struct dump_body_head of = {body->id, (uint16_t)body->length_bytes};
            if (!dump_bytes_add(&c->record, &of, sizeof of) ||
                !dump_bytes_add(&c->record, body->bytes, body->length_bytes))
                return no_memory(c);
        }
    }
    head.record_bytes = (uint32_t)c->record.count;
    memcpy(c->record.at, &head, sizeof head);
    return 1;
}

/* Hands the next epoch out, unless something of it is not here yet. */
static int hand_out(struct collecting *c, bool *ret_handed) {
    *ret_handed = false;
    struct dump_record record;
    char text[DUMP_TEXT_BYTES];
    static const struct wire_hash unknown;
    int laid = lay(c, window_at(c, c->next));
    if (laid <= 0)
        return laid;
    if (!c->begun && !memcmp(&c->hash, &unknown, sizeof unknown))
        memcpy(&c->hash,
               ((const struct wire_epoch_head *)window_at(c, c->next)->bytes)->previous_hash,
               sizeof c->hash);
    if (dump_record_next(c->record.at, c->record.count, &record) < 0 ||
        dump_record_check(&record, c->next, &c->hash, &c->span->digest_key, text))
        return 0; /* a body that is replaced later */
    int error = c->emit(c->context, c->next, &record.hash, c->record.at, c->record.count);
    c->hash = record.hash;
    *ret_handed = true;
    return error;
}

/* Goes on as far as it is known what was committed. */
static int advance(struct collecting *c) {
    while (c->window_count && (c->next <= c->committed || MUTANT(stretch_uncommitted)) &&
           c->next <= c->span->to_seq) {
        if (c->next > c->span->after_seq + 1 && !c->begun)
            return MRN_ERR_NOT_FOUND; /* what was asked for is not in this journal */
        if (c->next > c->span->after_seq) {
            bool handed;
            int error = hand_out(c, &handed);
            if (error || !handed)
                return error;
            c->begun = true;
        }
        window_pop(c);
    }
    return 0;
}

/* Where the next reading must begin: at the oldest of what still waits. */
static uint64_t oldest(const struct collecting *c) {
    uint64_t place = c->place;
    for (uint32_t i = 0; i < BUCKETS; i++)
        for (const struct held_body *body = c->bodies[i]; body; body = body->next)
            place = body->place < place ? body->place : place;
    for (uint32_t i = 0; i < c->window_count; i++) {
        const struct held_epoch *e = &c->window[c->window_first + i];
        place = e->place < place ? e->place : place;
    }
    return place;
}

/* Full, every second one goes: what is far behind is wanted seldom. */
static void thin(struct dump_journal *journal) {
    for (uint32_t i = 1; 2 * i < DUMP_JOURNAL_MARKS_MAX; i++)
        journal->marks[i] = journal->marks[2 * i];
    journal->mark_count = DUMP_JOURNAL_MARKS_MAX / 2;
}

/* A body that nobody proposes, since its gateway is gone, would wait for ever. If one so old is
 * named after all, a reading that began at the mark does not find it. */
static void mark(struct collecting *c) {
    struct dump_journal *journal = c->journal;
    uint64_t place = oldest(c), long_ago = c->earlier[0];
    struct dump_journal_mark new = {c->next - 1, place > long_ago ? place : long_ago};
    if (MUTANT(stretch_marked_late))
        new.place = c->place;
    memmove(c->earlier, c->earlier + 1, sizeof c->earlier - sizeof c->earlier[0]);
    c->earlier[PATIENCE - 1] = c->place;
    /* Below what is asked for it passes epochs over whose bodies may lie before its beginning. */
    if (c->late && new.seq < c->span->after_seq)
        return;
    if (journal->mark_count == DUMP_JOURNAL_MARKS_MAX)
        thin(journal);
    uint32_t at = journal->mark_count;
    while (at && journal->marks[at - 1].seq >= new.seq)
        at--;
    if (at < journal->mark_count && journal->marks[at].seq == new.seq)
        return;
    memmove(&journal->marks[at + 1], &journal->marks[at], (journal->mark_count - at) * sizeof new);
    journal->marks[at] = new;
    journal->mark_count++;
}

static int take_record(void *context, enum journal_kind kind, uint64_t place, const uint8_t *bytes,
                       uint32_t length_bytes) {
    struct collecting *c = context;
    uint64_t committed;
    c->place = place;
    if (kind == JOURNAL_BODY)
        return take_body(c, bytes, length_bytes);
    if (kind != JOURNAL_EPOCH)
        return 0;
    if (length_bytes < sizeof committed + sizeof(struct wire_epoch_head) ||
        wire_epoch_check(bytes + sizeof committed, length_bytes - sizeof committed) !=
            WIRE_DROP_NONE)
        return malformed(c);
    memcpy(&committed, bytes, sizeof committed);
    c->committed = committed > c->committed ? committed : c->committed;
    int error = window_put(c, bytes + sizeof committed, length_bytes - (uint32_t)sizeof committed);
    if (!error)
        error = advance(c);
    if (!error && c->passed && c->place >> MARK_SHIFT != c->marked) {
        c->marked = c->place >> MARK_SHIFT;
        mark(c);
    }
    return error;
}

/* What was asked for is executed, so committed, if that is what lies here under its number. */
static void note_asked(struct collecting *c) {
    uint64_t to_seq = c->span->to_seq;
    if (c->next && to_seq >= c->next && to_seq < c->next + c->window_count &&
        !memcmp(&window_at(c, to_seq)->hash, &c->span->to_hash, sizeof c->span->to_hash))
        c->committed = to_seq > c->committed ? to_seq : c->committed;
}

static void collecting_free(struct collecting *c) {
    for (uint32_t i = 0; c->bodies && i < BUCKETS; i++)
        while (c->bodies[i]) {
            struct held_body *body = c->bodies[i];
            c->bodies[i] = body->next;
            free(body);
        }
    window_cut(c, 0);
    free(c->bodies);
    free(c->settled);
    free(c->window);
    dump_bytes_free(&c->record);
}

uint64_t dump_journal_place(const struct dump_journal *journal, uint64_t after_seq) {
    uint64_t place = 0;
    for (uint32_t i = 0; i < journal->mark_count && journal->marks[i].seq <= after_seq; i++)
        place = journal->marks[i].place > place ? journal->marks[i].place : place;
    return place;
}

int dump_journal_read(struct dump_journal *journal, const struct dump_journal_span *span,
                      dump_journal_emit *emit, void *context, char *text) {
    struct collecting c = {.journal = journal,
                           .span = span,
                           .emit = emit,
                           .context = context,
                           .hash = span->after_hash,
                           .late = journal->place > 0,
                           .text = text};
    char words[JOURNAL_TEXT_BYTES] = "";
    c.bodies = calloc(BUCKETS, sizeof(struct held_body *));
    c.settled = calloc(RANGES, sizeof *c.settled);
    if (!c.bodies || !c.settled) {
        collecting_free(&c);
        return no_memory(&c);
    }
    text[0] = '\0';
    int error = journal_follow(journal->directory, journal->place, take_record, &c, words);
    if (!error) {
        note_asked(&c);
        error = advance(&c);
    }
    if (!error &&
        (c.next <= span->to_seq || !c.begun)) /* too little, or only what comes after it */
        error = c.next && c.next <= span->to_seq ? MRN_ERR_UNAVAILABLE : MRN_ERR_NOT_FOUND;
    if (!error) {
        journal->place = oldest(&c);
        mark(&c);
    } else if ((error == MRN_ERR_NOT_FOUND || error == MRN_ERR_UNAVAILABLE) && !text[0])
        snprintf(text, DUMP_TEXT_BYTES,
                 "the journal does not hold epochs %" PRIu64 " to %" PRIu64
                 " with their bodies (got to %" PRIu64 "): %.100s",
                 span->after_seq + 1, span->to_seq, c.next, words);
    else if (!text[0])
        snprintf(text, DUMP_TEXT_BYTES, "%.300s", words);
    collecting_free(&c);
    return error;
}
