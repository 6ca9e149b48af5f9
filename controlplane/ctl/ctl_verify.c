#include <inttypes.h>
#include <string.h>

#include "controlplane/ctl/ctl.h"
#include "dataplane/journal/journal.h"
#include "maroon/error.h"

static void print_table(const struct journal_report *report, const char *text) {
    struct ctl_table table = {0};
    char value[64];
#define ROW(name, format, ...)                              \
    do {                                                    \
        snprintf(value, sizeof value, format, __VA_ARGS__); \
        ctl_table_row(&table, 2, name, value);              \
    } while (0)
    ROW("incarnation", "%016" PRIx64, report->identity.incarnation);
    ROW("configuration id", "%016" PRIx64, report->identity.configuration_id);
    ROW("opened for writing", "%d times", report->generation);
    ROW("segments", "%" PRIu64 " of %" PRIu64 " bytes", report->segment_count,
        report->segment_bytes);
    ROW("positions", "%" PRIu64 " to %" PRIu64, report->first, report->next);
    ROW("known stable below", "%" PRIu64, report->stable_floor);
    ROW("bytes", "%" PRIu64 " used, %" PRIu64 " torn", report->used_bytes, report->torn_bytes);
    for (uint32_t kind = 0; kind < sizeof report->kind_count / sizeof *report->kind_count; kind++)
        if (journal_kind_label(kind))
            ROW(journal_kind_label(kind), "%" PRIu64 " records", report->kind_count[kind]);
#undef ROW
    ctl_table_print(&table, stdout);
    printf("%s\n", text);
}

static void print_json(const struct journal_report *report, const char *text) {
    json_t *kinds = json_object();
    for (uint32_t kind = 0; kind < sizeof report->kind_count / sizeof *report->kind_count; kind++)
        if (journal_kind_label(kind))
            (void)json_object_set_new(kinds, journal_kind_label(kind),
                                      json_integer((json_int_t)report->kind_count[kind]));
    json_t *root =
        json_pack("{s:b, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "sound", 1, "summary", text,
                  "segments", (json_int_t)report->segment_count, "first", (json_int_t)report->first,
                  "next", (json_int_t)report->next, "stableFloor", (json_int_t)report->stable_floor,
                  "usedBytes", (json_int_t)report->used_bytes, "tornBytes",
                  (json_int_t)report->torn_bytes, "records", kinds);
    (void)json_dumpf(root, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(root);
}

int ctl_verify(const struct ctl_options *options, const char *directory) {
    struct journal_report report;
    char text[JOURNAL_TEXT_BYTES] = "";
    int error = journal_verify(directory, &report, text);
    if (error) {
        fprintf(stderr, "maroonctl: %s: %s: %s\n", directory, mrn_error_text(error), text);
        return 1;
    }
    if (options->json)
        print_json(&report, text);
    else
        print_table(&report, text);
    return 0;
}
