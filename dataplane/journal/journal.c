#include <assert.h>
#include <inttypes.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "dataplane/journal/journal_state.h"

/* Writes that are not urgent leave the device room for one that is. */
#define PATIENT_WRITES_MAX 2

#define YIELD_AFTER_NS 20000
#define YIELD_EVERY_NS 5000

static const uint64_t bucket_us[JOURNAL_HISTOGRAM_BUCKETS] = {
    25,   50,   75,   100,   150,   200,    300,     500,
    1000, 2000, 5000, 10000, 50000, 200000, 1000000, UINT64_MAX};

uint64_t journal_bucket_us(uint32_t index) {
    assert(index < JOURNAL_HISTOGRAM_BUCKETS);
    return bucket_us[index];
}

int journal_kind_sticky(uint32_t kind) {
    switch (kind) {
#define JOURNAL_KIND(name, value, label, sticky, sentence) \
    case value:                                            \
        return sticky;
#include "dataplane/journal/journal_kinds.def"
#undef JOURNAL_KIND
    }
    return 0;
}

static struct journal_batch *batch_of(struct journal *journal, uint64_t number) {
    return &journal->batches[number % journal->config.batch_count];
}

/* ---- where the next write goes ---- */

static void take_keeper_error(struct journal *journal) {
    struct journal_keeper *keeper = &journal->keeper;
    int state = __atomic_load_n(&keeper->state, __ATOMIC_ACQUIRE);
    if (state != JOURNAL_KEEPER_SHORT && state != JOURNAL_KEEPER_FAILED)
        return;
    if (!__atomic_compare_exchange_n(&keeper->state, &state, JOURNAL_KEEPER_SEEN, 0,
                                     __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return; /* the keeper got a segment after all */
    journal->error = keeper->error;
    memcpy(journal->text, keeper->text, JOURNAL_TEXT_BYTES);
}

/* Moves to the next segment. 0 when it is not prepared: then the journal waits, or fails when the
 * keeper can't prepare one. */
static int next_segment(struct journal *journal) {
    struct journal_keeper *keeper = &journal->keeper;
    uint64_t next = journal->segment + 1;
    if (next >= __atomic_load_n(&keeper->prepared, __ATOMIC_ACQUIRE) ||
        next - journal->segment_begin >= JOURNAL_SEGMENTS_MAX - 1) {
        take_keeper_error(journal);
        return 0;
    }
    journal->segment = next;
    journal->block_next = 1;
    __atomic_store_n(&keeper->first_positions[next % JOURNAL_SEGMENTS_MAX], journal->next,
                     __ATOMIC_RELAXED);
    __atomic_store_n(&keeper->in_use, next, __ATOMIC_RELEASE);
    journal_count(&journal->counters.retained_bytes, JOURNAL_BLOCK_BYTES);
    journal_keeper_kick(keeper);
    return 1;
}

/* Gives the batch that fills its place. 0 when there is none now. */
static int begin_batch(struct journal *journal, uint64_t now_ns) {
    if (journal->filling - journal->done >= journal->config.batch_count)
        return 0;
    if (journal->block_next >= journal->block_count && !next_segment(journal))
        return 0;
    struct journal_batch *batch = batch_of(journal, journal->filling);
    uint64_t left = journal->block_count - journal->block_next;
    uint64_t room = journal->config.batch_bytes / JOURNAL_BLOCK_BYTES;
    journal_packer_begin(&batch->packer, batch->blocks, (uint32_t)(left < room ? left : room),
                         journal->keeper.dir.store.identity.incarnation, journal->segment,
                         journal->block_next, journal->generation, journal->next);
    batch->oldest_ns = now_ns;
    batch->urgent = batch->finished = 0;
    batch->begun = 1;
    return 1;
}

/* Ends the batch that fills; the next one follows behind it. */
static void seal_batch(struct journal *journal) {
    struct journal_batch *batch = batch_of(journal, journal->filling);
    batch->length_bytes = journal_packer_end(&batch->packer, journal->stable);
    batch->begun = 0;
    journal->marked = journal->stable;
    journal->block_next += batch->packer.block_count;
    journal->filling++;
}

/* ---- append ---- */

/* A batch with room for the record, or NULL. */
static struct journal_batch *find_room(struct journal *journal, uint32_t length_bytes,
                                       uint64_t now_ns) {
    for (int i = 0; i < 3; i++) { /* a full batch, a full segment, a fresh one */
        struct journal_batch *batch = batch_of(journal, journal->filling);
        int has_place =
            journal->filling - journal->done < journal->config.batch_count && batch->begun;
        if (!has_place && !begin_batch(journal, now_ns))
            return NULL;
        batch = batch_of(journal, journal->filling);
        if (journal_packer_fits(&batch->packer, length_bytes))
            return batch;
        if (batch->packer.next > batch->packer.first)
            seal_batch(journal);
        else {
            batch->begun = 0; /* the rest of the segment is too small for it */
            journal->block_next = journal->block_count;
        }
    }
    return NULL;
}

int journal_append(struct journal *journal, enum journal_kind kind, uint64_t position,
                   const struct journal_piece pieces[2], int urgent, uint64_t now_ns) {
    uint32_t length_bytes = pieces[0].length_bytes + pieces[1].length_bytes;
    assert(position == journal->next && "positions are dense");
    assert(length_bytes <= JOURNAL_RECORD_MAX_BYTES && journal_kind_label(kind));
    if (journal->error)
        return journal->error;
    struct journal_batch *batch = find_room(journal, length_bytes, now_ns);
    if (!batch) {
        journal_count(&journal->counters.full, 1);
        return journal->error ? journal->error : MRN_ERR_FULL;
    }
    journal_packer_add(&batch->packer, kind, pieces, journal->stable);
    batch->urgent |= urgent;
    if (journal_kind_sticky(kind))
        journal->newest[kind] = position;
    journal->next++;
    journal->active_ns = now_ns;
    journal_count(&journal->counters.records, 1);
    journal_count(&journal->counters.record_bytes, length_bytes);
    return 0;
}

/* ---- write ---- */

static uint64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void submit_batch(struct journal *journal, uint64_t now_ns) {
    struct journal_batch *batch = batch_of(journal, journal->submitted);
    const struct journal_packer *packer = &batch->packer;
    const struct journal_write write = {.bytes = batch->blocks,
                                        .segment = packer->segment,
                                        .offset = packer->index * JOURNAL_BLOCK_BYTES,
                                        .length_bytes = batch->length_bytes,
                                        .fd = journal->keeper.fds[packer->segment % JOURNAL_FDS]};
    struct journal_counters *counters = &journal->counters;
    batch->submitted_ns = now_ns;
    uint64_t before_ns = monotonic_ns();
    journal_writer_start(&journal->writer,
                         (uint32_t)(journal->submitted % journal->config.batch_count), &write);
    uint64_t took_ns = monotonic_ns() - before_ns;
    journal->submitted++;
    journal->in_flight++;
    journal_count(&counters->submit_count, 1);
    journal_count(&counters->submit_sum_ns, took_ns);
    if (took_ns > counters->submit_max_ns)
        journal_count(&counters->submit_max_ns, took_ns - counters->submit_max_ns);
}

static void count_sync(struct journal_counters *counters, uint64_t took_ns) {
    uint32_t i = 0;
    while (i < JOURNAL_HISTOGRAM_BUCKETS - 1 && took_ns > bucket_us[i] * 1000)
        i++;
    journal_count(&counters->sync_count, 1);
    journal_count(&counters->sync_sum_ns, took_ns);
    journal_count(&counters->sync_buckets[i], 1);
}

static void fail_write(struct journal *journal, const struct journal_write *write) {
    char name[32];
    if (journal->error)
        return;
    journal_segment_name(name, write->segment);
    journal->error = journal_say(
        journal->text, MRN_ERR_IO, journal->config.directory,
        "can't write %u bytes to %s at offset %" PRIu64
        ": %s; nothing more is acknowledged; look after the disk, then restart the node",
        write->length_bytes, name, write->offset,
        write->result < 0 ? strerror(-write->result) : "short write");
}

/* Everything before `submitted` that is finished without a gap is stable. */
static void advance_stable(struct journal *journal, uint64_t now_ns) {
    while (!journal->error && journal->done < journal->submitted) {
        struct journal_batch *batch = batch_of(journal, journal->done);
        if (!batch->finished)
            break;
        assert(batch->packer.first == journal->stable && batch->packer.next >= journal->stable);
        if (batch->packer.next > batch->packer.first) {
            count_sync(&journal->counters, now_ns - batch->submitted_ns);
            journal->active_ns = now_ns;
        }
        journal_count(&journal->counters.writes, 1);
        journal_count(&journal->counters.written_bytes, batch->length_bytes);
        journal_count(&journal->counters.retained_bytes, batch->length_bytes);
        journal->stable = batch->packer.next;
        journal->done++;
    }
    for (uint32_t kind = 0; kind < JOURNAL_KINDS; kind++)
        if (journal->newest[kind] < journal->stable)
            journal->kept[kind] = journal->newest[kind];
    uint64_t written = journal->done < journal->submitted
                           ? batch_of(journal, journal->done)->packer.segment
                           : journal->segment;
    if (journal->filling > journal->submitted)
        written = batch_of(journal, journal->submitted)->packer.segment < written
                      ? batch_of(journal, journal->submitted)->packer.segment
                      : written;
    struct journal_keeper *keeper = &journal->keeper;
    __atomic_store_n(&keeper->stable, journal->stable, __ATOMIC_RELEASE);
    if (written != keeper->written)
        __atomic_store_n(&keeper->written, written, __ATOMIC_RELEASE);
}

/* Without FUA the kernel flushes after a write in a worker bound to the CPU that took the
 * interrupt. If that is ours, it runs at the next tick only (4 ms; measured) unless we step aside.
 */
static void let_kernel_run(struct journal *journal, uint64_t now_ns) {
    const struct journal_batch *oldest = batch_of(journal, journal->done);
    if (journal->writer.uses_thread || journal->error || journal->config.busy_never_yields ||
        now_ns - oldest->submitted_ns < YIELD_AFTER_NS ||
        now_ns - journal->yielded_ns < YIELD_EVERY_NS)
        return;
    journal->yielded_ns = now_ns;
    sched_yield();
}

static uint32_t reap(struct journal *journal, uint64_t now_ns) {
    uint32_t slot, count = 0;
    while (journal->in_flight > 0 && journal_writer_reap(&journal->writer, &slot)) {
        const struct journal_write *write = &journal->writer.writes[slot];
        journal->batches[slot].finished = 1;
        journal->in_flight--;
        count++;
        if (write->result != (int)write->length_bytes)
            fail_write(journal, write);
    }
    if (count)
        advance_stable(journal, now_ns);
    else if (journal->in_flight > 0)
        let_kernel_run(journal, now_ns);
    return count;
}

/* "A body alone starts a sync only after body_sync_delay or when 64 KiB wait; a proposal starts one
 * at once, with its bodies in the same write." */
static int write_now(const struct journal *journal, const struct journal_batch *batch,
                     uint64_t now_ns) {
    if (batch->urgent)
        return 1;
    if (journal->in_flight >= PATIENT_WRITES_MAX)
        return 0;
    return journal_packer_bytes(&batch->packer) >= journal->config.body_sync_bytes ||
           now_ns - batch->oldest_ns >= journal->config.body_sync_delay_ns;
}

void journal_flush(struct journal *journal, uint64_t now_ns) {
    struct journal_batch *batch = batch_of(journal, journal->filling);
    if (journal->error)
        return;
    if (journal->filling - journal->done < journal->config.batch_count && batch->begun)
        seal_batch(journal);
    while (journal->submitted < journal->filling && journal->in_flight < journal->config.writes_max)
        submit_batch(journal, now_ns);
}

/* An idle journal writes down what is stable, so that damage to its last records is seen as such.
 */
static void mark(struct journal *journal, uint64_t now_ns) {
    if (journal->marked == journal->stable || !journal_idle(journal) || journal->in_flight > 0 ||
        now_ns - journal->active_ns < journal->config.mark_delay_ns ||
        journal->block_next >= journal->block_count)
        return;
    if (begin_batch(journal, now_ns))
        journal_flush(journal, now_ns);
}

uint32_t journal_poll(struct journal *journal, uint64_t now_ns) {
    uint32_t work = reap(journal, now_ns);
    uint64_t submitted = journal->submitted;
    if (journal->error)
        return work;
    if (__atomic_load_n(&journal->keeper.state, __ATOMIC_ACQUIRE) == JOURNAL_KEEPER_FAILED) {
        take_keeper_error(journal);
        return work;
    }
    while (journal->submitted < journal->filling && journal->in_flight < journal->config.writes_max)
        submit_batch(journal, now_ns);
    struct journal_batch *batch = batch_of(journal, journal->filling);
    if (journal->filling - journal->done < journal->config.batch_count && batch->begun &&
        journal->in_flight < journal->config.writes_max && write_now(journal, batch, now_ns))
        journal_flush(journal, now_ns);
    else
        mark(journal, now_ns);
    return work + (uint32_t)(journal->submitted - submitted);
}

/* ---- asking ---- */

uint64_t journal_stable(const struct journal *journal) {
    return journal->stable;
}

uint64_t journal_next(const struct journal *journal) {
    return journal->next;
}

uint64_t journal_first(const struct journal *journal) {
    return journal->keeper.first_positions[journal->segment_begin % JOURNAL_SEGMENTS_MAX];
}

int journal_idle(const struct journal *journal) {
    return journal->stable == journal->next;
}

uint64_t journal_waiting_ns(const struct journal *journal, uint64_t now_ns) {
    const struct journal_batch *oldest =
        &journal->batches[journal->done % journal->config.batch_count];
    int waits = journal->done < journal->submitted && !journal->error;
    return waits && now_ns > oldest->submitted_ns ? now_ns - oldest->submitted_ns : 0;
}

const char *journal_describe(const struct journal *journal) {
    return journal->description;
}

const struct journal_identity *journal_identity(const struct journal *journal) {
    return &journal->keeper.dir.store.identity;
}

int journal_failed(const struct journal *journal, const char **ret_text) {
    if (journal->error && ret_text)
        *ret_text = journal->text;
    return journal->error;
}

void journal_read_counters(const struct journal *journal, struct journal_counters *ret_counters) {
    const uint64_t *from = (const uint64_t *)&journal->counters;
    uint64_t *to = (uint64_t *)ret_counters;
    for (size_t i = 0; i < sizeof(*ret_counters) / sizeof(uint64_t); i++)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
    const struct journal_keeper *keeper = &journal->keeper;
    ret_counters->segments_prepared = __atomic_load_n(&keeper->prepared_count, __ATOMIC_RELAXED);
    ret_counters->segments_recycled = __atomic_load_n(&keeper->recycled_count, __ATOMIC_RELAXED);
    ret_counters->reserved_bytes = (__atomic_load_n(&keeper->prepared, __ATOMIC_RELAXED) -
                                    __atomic_load_n(&keeper->released, __ATOMIC_RELAXED)) *
                                   journal->block_count * JOURNAL_BLOCK_BYTES;
}

/* ---- release ---- */

void journal_release(struct journal *journal, uint64_t below) {
    struct journal_keeper *keeper = &journal->keeper;
    uint64_t before = journal->segment_begin;
    if (below > journal->stable)
        below = journal->stable;
    for (uint32_t kind = 0; kind < JOURNAL_KINDS; kind++)
        if (journal->kept[kind] < below)
            below = journal->kept[kind];
    while (journal->segment_begin < keeper->written) {
        uint64_t first =
            keeper->first_positions[(journal->segment_begin + 1) % JOURNAL_SEGMENTS_MAX];
        if (first > below)
            break;
        journal->segment_begin++;
    }
    if (journal->segment_begin == before)
        return;
    uint64_t gone = (journal->segment_begin - before) * journal->block_count * JOURNAL_BLOCK_BYTES;
    uint64_t *retained = &journal->counters.retained_bytes;
    __atomic_store_n(retained, *retained > gone ? *retained - gone : 0, __ATOMIC_RELAXED);
    __atomic_store_n(&keeper->released, journal->segment_begin, __ATOMIC_RELEASE);
    journal_keeper_kick(keeper);
}

void journal_check(const struct journal *journal) {
    const struct journal_keeper *keeper = &journal->keeper;
    assert(journal->done <= journal->submitted && journal->submitted <= journal->filling);
    assert(journal->filling - journal->done <= journal->config.batch_count);
    assert(journal->stable <= journal->next);
    assert(journal->marked <= journal->stable);
    assert(journal->in_flight <= journal->config.writes_max);
    assert(journal->segment_begin <= journal->segment);
    assert(journal_first(journal) <= journal->stable);
    for (uint32_t kind = 0; kind < JOURNAL_KINDS; kind++)
        assert(journal->kept[kind] >= journal_first(journal));
    assert(keeper->written <= journal->segment);
}
