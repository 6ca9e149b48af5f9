/* Epochs of a peer's journal (control plane: snapshot.h): each committed epoch, then its bodies, as
 * fast as the log has room. What of it does not arrive is fetched as ever. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "controlplane/dump/dump_stretch.h"
#include "dataplane/stages/internal.h"

#define BODIES_PER_PASS 512
#define STALL_NS UINT64_C(5000000000)

static void tell(struct stage *s, int error, uint64_t seq) {
    struct mailbox_up up = {.kind = MAILBOX_UP_LEARNED, .error = error, .seq = seq};
    mailbox_send_up(s->setup.mailbox, &up);
}

void stage_learn_close(struct stage *s) {
    struct learn *l = &s->gossip.learn;
    if (l->bytes)
        munmap((void *)(uintptr_t)l->bytes, l->count);
    l->bytes = NULL;
}

void stage_learn_begin(struct stage *s, uint8_t peer, const char *path) {
    struct learn *l = &s->gossip.learn;
    struct stat status;
    stage_learn_close(s);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool there = fd >= 0 && fstat(fd, &status) == 0 && status.st_size > 0;
    void *map =
        there ? mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    if (fd >= 0)
        close(fd);
    if (map == MAP_FAILED) {
        tell(s, MRN_ERR_IO, 0);
        return;
    }
    *l = (struct learn){.bytes = map,
                        .count = (size_t)status.st_size,
                        .moved_ns = s->gossip.worker->now_ns,
                        .peer = peer};
}

static void take_bodies(struct stage *s, const struct dump_record *record) {
    const uint8_t *at = record->bodies;
    for (uint32_t i = 0; i < record->body_count; i++) {
        struct dump_body_head head;
        struct wire_body_header header;
        const uint8_t *bytes = dump_body_next(&at, &head);
        if (head.length_bytes < sizeof header)
            continue;
        uint32_t slot = stage_bodies_take(&s->bodies, head.id, bytes, head.length_bytes);
        if (slot == BODIES_SLOT_NONE)
            return; /* fetched later */
        memcpy(&header, bytes, sizeof header);
        struct replica_event event = {.kind = REPLICA_EVENT_BODY};
        event.body =
            (struct replica_event_body){.id = head.id,
                                        .digest = wire_hash_body(&s->setup.identity->digest_key,
                                                                 head.id, bytes, head.length_bytes),
                                        .slot = slot,
                                        .parts_following = header.parts_following,
                                        .peer = s->gossip.learn.peer};
        stage_step(s, &event);
    }
}

/* Three quarters of the log: epochs are let go of from half of it on. */
static bool has_room(const struct stage *s, const struct replica_facts *facts, uint32_t bodies) {
    const struct config *g = s->setup.config;
    return facts->last_seq - facts->base_seq < g->log_epochs / 4 * 3 &&
           s->bodies.free_count > bodies + s->bodies.count / 4 &&
           !(s->gossip.storage && storage_pressed(s->gossip.storage));
}

/* In our log already, whether we know it to be committed or not. */
static bool is_known(const struct stage *s, const struct dump_record *record) {
    uint32_t bytes;
    struct wire_hash hash;
    const uint8_t *epoch = replica_epoch(s->gossip.replica, record->seq, &bytes, &hash);
    return epoch && bytes == record->epoch_bytes && !memcmp(epoch, record->epoch, bytes);
}

/* 1: taken or passed over; 0: no room now; or an error. */
static int take_record(struct stage *s, const struct dump_record *record, uint64_t *ret_seq) {
    struct replica_facts facts;
    replica_facts(s->gossip.replica, &facts);
    *ret_seq = facts.commit_seq;
    if (record->seq <= facts.commit_seq || facts.role == REPLICA_ROLE_LEADER) {
        /* Known, but a body may be in journals only by now. A leader learns no epoch, but it may
         * have adopted this one. */
        if (record->seq > facts.exec_seq && is_known(s, record))
            take_bodies(s, record);
        return 1;
    }
    if (record->seq != facts.commit_seq + 1)
        return MRN_ERR_MISMATCH;
    if (!has_room(s, &facts, record->body_count))
        return s->gossip.worker->now_ns - s->gossip.learn.moved_ns > STALL_NS ? MRN_ERR_TIMEOUT : 0;
    struct replica_event event = {.kind = REPLICA_EVENT_LEARN};
    event.learn.bytes = record->epoch;
    event.learn.length_bytes = record->epoch_bytes;
    stage_step(s, &event);
    replica_facts(s->gossip.replica, &facts);
    if (facts.commit_seq != record->seq)
        return MRN_ERR_MISMATCH;
    *ret_seq = facts.commit_seq;
    take_bodies(s, record);
    s->gossip.learn.moved_ns = s->gossip.worker->now_ns;
    return 1;
}

uint32_t stage_learn_poll(struct stage *s) {
    struct learn *l = &s->gossip.learn;
    uint32_t work = 0;
    uint64_t seq = 0;
    while (l->bytes && work < BODIES_PER_PASS) {
        struct dump_record record;
        int64_t length =
            l->at < l->count ? dump_record_next(l->bytes + l->at, l->count - l->at, &record) : 0;
        int taken = length > 0 ? take_record(s, &record, &seq) : (int)length;
        if (taken == 0 && length > 0)
            break;
        if (taken <= 0) {
            struct replica_facts facts;
            replica_facts(s->gossip.replica, &facts);
            stage_learn_close(s);
            tell(s, taken, facts.commit_seq);
            break;
        }
        l->at += (size_t)length;
        work += 1 + record.body_count;
    }
    return work;
}
