/* Epochs of a peer's journal (control plane: snapshot.h), out of a file: learn_take.h says what of
 * them is taken. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "controlplane/dump/dump_stretch.h"
#include "dataplane/stages/internal.h"
#include "dataplane/stages/learn_take.h"

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

static void shell_step(void *context, struct replica_event *event) {
    stage_step(context, event);
}

static bool shell_store(void *context, uint64_t id, const uint8_t *bytes, uint32_t length_bytes,
                        struct replica_event_body *ret_body) {
    struct stage *s = context;
    struct wire_body_header header;
    uint32_t slot = stage_bodies_take(&s->bodies, id, bytes, length_bytes);
    if (slot == BODIES_SLOT_NONE)
        return false;
    memcpy(&header, bytes, sizeof header);
    *ret_body = (struct replica_event_body){
        .id = id,
        .digest = wire_hash_body(&s->setup.identity->digest_key, id, bytes, length_bytes),
        .slot = slot,
        .parts_following = header.parts_following};
    return true;
}

static bool shell_room(void *context, uint32_t bodies) {
    const struct stage *s = context;
    return s->bodies.free_count > bodies + s->bodies.count / 4 &&
           !(s->gossip.storage && storage_pressed(s->gossip.storage));
}

/* 1: taken or passed over; 0: no room now; or an error. */
static int take_record(struct stage *s, const struct dump_record *record) {
    struct learn *l = &s->gossip.learn;
    const struct learn_shell shell = {.context = s,
                                      .replica = s->gossip.replica,
                                      .log_epochs = s->setup.config->log_epochs,
                                      .peer = l->peer,
                                      .step = shell_step,
                                      .store = shell_store,
                                      .room = shell_room};
    int taken = learn_take(&shell, record);
    uint64_t now_ns = s->gossip.worker->now_ns;
    if (taken)
        l->moved_ns = now_ns;
    return taken || now_ns - l->moved_ns <= STALL_NS ? taken : MRN_ERR_TIMEOUT;
}

uint32_t stage_learn_poll(struct stage *s) {
    struct learn *l = &s->gossip.learn;
    uint32_t work = 0;
    while (l->bytes && work < BODIES_PER_PASS) {
        struct dump_record record;
        int64_t length =
            l->at < l->count ? dump_record_next(l->bytes + l->at, l->count - l->at, &record) : 0;
        int taken = length > 0 ? take_record(s, &record) : (int)length;
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
