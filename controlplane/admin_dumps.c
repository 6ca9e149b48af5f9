#include <inttypes.h>
#include <stdio.h>

#include "controlplane/admin.h"
#include "maroon/error.h"

json_t *admin_dumps_json(const struct admin_setup *setup) {
    struct dumper_status status;
    if (!setup->dumps)
        return json_null();
    dumper_status(setup->dumps->dumper, &status);
    json_t *object = json_object();
    (void)json_object_set_new(object, "store", json_string(setup->config->store.url));
    (void)json_object_set_new(object, "dumping", json_boolean(status.dumping));
    admin_number(object, "latestSeq", status.latest_seq);
    admin_number(object, "pointerSeq", arbiter_dump(setup->arbiter)->seq);
    admin_number(object, "dumps", status.dumps);
    admin_number(object, "failures", status.failures);
    (void)json_object_set_new(object, "turn", json_boolean(setup->dumps->ours));
    admin_number(object, "turnsOthers", setup->dumps->others);
    admin_number(object, "turnsUnfenced", setup->dumps->unfenced);
    admin_number(object, "turnsLost", setup->arbiter->dump_turn_losses);
    admin_number(object, "overtaken", status.overtaken);
    admin_number(object, "lastSeq", status.last_seq);
    admin_number(object, "lastWallMs", status.last_wall_ms);
    admin_number(object, "lastDurationMs", status.last_duration_ms);
    admin_number(object, "lastPages", status.last_pages);
    admin_number(object, "lastChangedPages", status.last_changed_pages);
    admin_number(object, "lastSentBytes", status.last_sent_bytes);
    admin_number(object, "lastSkippedBytes", status.last_skipped_bytes);
    admin_number(object, "lastCheckedBytes", status.last_checked_bytes);
    admin_number(object, "lies", status.lies);
    admin_number(object, "lastEpochs", status.last_epochs);
    (void)json_object_set_new(object, "lastGap", json_boolean(status.last_gap));
    (void)json_object_set_new(
        object, "error", status.error ? json_string(mrn_error_name(status.error)) : json_null());
    (void)json_object_set_new(object, "why", json_string(status.text));
    return object;
}

void admin_dumps_metrics(const struct admin_setup *setup, FILE *out) {
    struct dumper_status status;
    if (!setup->dumps)
        return;
    dumper_status(setup->dumps->dumper, &status);
    const struct admin_row rows[] = {
        {"dumps_total", "counter", "dumps made by this node", status.dumps},
        {"dump_failures_total", "counter", "dumps and looks that failed", status.failures},
        {"dump_turn", "gauge", "1 while it is this node's turn to dump (dump/turn in etcd)",
         setup->dumps->ours},
        {"dump_turns_others_total", "counter", "turns not had, since another node was at it",
         setup->dumps->others},
        {"dump_turns_unfenced_total", "counter",
         "dumps begun without the turn: another node may have dumped the same epoch",
         setup->dumps->unfenced},
        {"dump_turns_lost_total", "counter", "turns that another node took over meanwhile",
         setup->arbiter->dump_turn_losses},
        {"dumps_overtaken_total", "counter", "dumps given up, since another node's was as new",
         status.overtaken},
        {"dump_error", "gauge", "1 while the last one failed", status.error != 0},
        {"dump_latest_seq", "gauge", "epoch of the newest dump in the store", status.latest_seq},
        {"dump_pointer_seq", "gauge", "the same, as dump/latest in etcd says",
         arbiter_dump(setup->arbiter)->seq},
        {"dump_last_duration_ms", "gauge", "of the last one made here", status.last_duration_ms},
        {"dump_last_changed_pages", "gauge", "pages that it brought", status.last_changed_pages},
        {"dump_last_sent_bytes", "gauge", "objects that it sent", status.last_sent_bytes},
        {"dump_last_checked_bytes", "gauge", "that it read back", status.last_checked_bytes},
        {"dump_lies_total", "counter", "objects that the store lost or changed, found in time",
         status.lies},
        {"dump_last_epochs", "gauge", "of the journal that it brought", status.last_epochs},
        {"dump_last_gap", "gauge", "1: it lacks the epochs since the dump before", status.last_gap},
        {"store_requests_total", "counter", "requests to the store", status.counters.requests},
        {"store_retries_total", "counter", "of them again", status.counters.retries},
        {"store_throttled_total", "counter", "answers that asked to slow down",
         status.counters.throttled},
        {"store_corrupt_total", "counter", "transfers with wrong bytes", status.counters.corrupt},
        {"store_uploaded_bytes_total", "counter", "tries included", status.counters.uploaded_bytes},
        {"store_downloaded_bytes_total", "counter", "tries included",
         status.counters.downloaded_bytes},
    };
    admin_rows(out, rows, sizeof rows / sizeof *rows);
}

bool admin_dumps_alarm(const struct admin_setup *setup, char ret_text[ADMIN_ALARM_BYTES]) {
    struct dumper_status status;
    if (!setup->dumps)
        return false;
    dumper_status(setup->dumps->dumper, &status);
    if (status.error)
        snprintf(ret_text, ADMIN_ALARM_BYTES,
                 "dumps fail (%s): %.320s; commits go on, journals are kept longer",
                 mrn_error_name(status.error), status.text);
    uint64_t cut_seq = atomic_load(&mailbox_status(setup->mailbox)->log_cut_seq);
    bool hole = !status.error && status.latest_known && cut_seq > status.latest_seq;
    if (hole)
        snprintf(ret_text, ADMIN_ALARM_BYTES,
                 "the journal was cut above the newest dump, of epoch %" PRIu64
                 ", for want of room (retain-bytes): up to epoch %" PRIu64
                 " this node can add no epochs to a dump",
                 status.latest_seq, cut_seq);
    bool lie = !status.error && !hole && status.last_lie;
    if (lie)
        snprintf(
            ret_text, ADMIN_ALARM_BYTES,
            "the store does not keep what it is given: %.300s; the last dump put it there anew",
            status.lie);
    return status.error || hole || lie;
}
