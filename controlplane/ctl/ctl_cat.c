/* dump cat --epoch N [--from M]: epochs with their transactions and results, and the applications'
 * state after them, for audit: out of a store, without a cluster. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "controlplane/ctl/ctl.h"
#include "controlplane/ctl/ctl_dump.h"
#include "controlplane/restore/restore_state.h"
#include "gateway/transcode/transcode.h"
#include "maroon/error.h"
#include "runtime/applications/applications.h"

struct row { /* of a table */
    const struct mrn_application *application;
    const struct mrn_table_spec *table;
    uint64_t order; /* of 8-byte keys */
    char key[2 * 64 + 1], value[2 * 64 + 1];
};

struct cat {
    struct dump_command *c;
    struct restore_state state;
    struct dump_show show;
    uint64_t from;
    bool json;
    json_t *epochs, *transactions; /* the list of the epoch at hand */
    const struct dump_record *record;
    const uint8_t *at; /* its next body */
    uint32_t left;
    struct row *rows;
    size_t row_count, row_room;
    bool no_memory;
};

static void set_number(json_t *object, const char *name, uint64_t value) {
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    (void)json_object_set_new(object, name, json_string(text));
}

static void set_hash(json_t *object, const char *name, const struct wire_hash *hash) {
    char text[65];
    dump_name_text(hash, text);
    (void)json_object_set_new(object, name, json_string(text));
}

static void time_text(uint64_t us, char ret_text[48]) {
    time_t s = (time_t)(us / 1000000);
    size_t length = strftime(ret_text, 32, "%FT%T", gmtime(&s));
    snprintf(ret_text + length, 48 - length, ".%06uZ", (unsigned)(us % 1000000));
}

/* ---- epochs ---- */

static void on_epoch(void *context, const struct dump_record *record) {
    struct cat *cat = context;
    const struct wire_epoch_head *head = (const void *)record->epoch;
    const struct wire_control *controls = wire_epoch_controls(record->epoch);
    char when[48], hash[65];
    cat->record = record->seq >= cat->from ? record : NULL;
    if (!cat->record)
        return;
    cat->at = record->bodies;
    cat->left = record->body_count;
    time_text(head->logical_time_us, when);
    dump_name_text(&record->hash, hash);
    if (!cat->json) {
        printf("epoch %" PRIu64 "  term %" PRIu64 "  %s  hash %s\n", record->seq, head->term, when,
               hash);
        for (uint32_t i = 0; i < head->control_count; i++)
            printf("  %s range %" PRIu64 " %s %" PRIu64 "\n",
                   controls[i].kind == WIRE_CONTROL_OPEN ? "open" : "seal", controls[i].range,
                   controls[i].kind == WIRE_CONTROL_OPEN ? "owner" : "end", controls[i].value);
        return;
    }
    json_t *epoch = json_object(), *list = json_array();
    set_number(epoch, "seq", record->seq);
    set_number(epoch, "term", head->term);
    set_number(epoch, "logicalTimeUs", head->logical_time_us);
    set_hash(epoch, "hash", &record->hash);
    for (uint32_t i = 0; i < head->control_count; i++) {
        json_t *control = json_object();
        (void)json_object_set_new(
            control, "kind", json_string(controls[i].kind == WIRE_CONTROL_OPEN ? "open" : "seal"));
        set_number(control, "range", controls[i].range);
        set_number(control, controls[i].kind == WIRE_CONTROL_OPEN ? "owner" : "end",
                   controls[i].value);
        (void)json_array_append_new(list, control);
    }
    (void)json_object_set_new(epoch, "controls", list);
    cat->transactions = json_array();
    (void)json_object_set_new(epoch, "transactions", cat->transactions);
    (void)json_array_append_new(cat->epochs, epoch);
}

struct call {
    struct wire_body_header header;
    struct wire_body_extension extension;
    struct dump_bytes payload;
    const struct mrn_service *service;
    const ProtobufCMethodDescriptor *method; /* NULL: this program has none such */
};

static void find_method(struct call *call) {
    uint32_t count;
    const struct mrn_application *const *applications = applications_list(&count);
    for (uint32_t a = 0; a < count; a++)
        for (uint32_t s = 0; s < applications[a]->service_count; s++) {
            const struct mrn_service *service = &applications[a]->services[s];
            const char *name = service->descriptor->name;
            if (wire_name_id(name, strlen(name)) != call->header.service)
                continue;
            call->service = service;
            for (unsigned m = 0; m < service->descriptor->n_methods; m++) {
                const ProtobufCMethodDescriptor *method = &service->descriptor->methods[m];
                if (wire_name_id(method->name, strlen(method->name)) == call->header.method)
                    call->method = method;
            }
        }
}

/* The parts of the transaction under `id`, which is at or behind the next body. */
static bool take_call(struct cat *cat, uint64_t id, struct call *call) {
    struct dump_body_head head = {0};
    const uint8_t *bytes = NULL;
    while (cat->left && head.id != id) {
        bytes = dump_body_next(&cat->at, &head);
        cat->left--;
    }
    if (head.id != id || head.length_bytes < sizeof call->header)
        return false;
    size_t skip = sizeof call->header;
    memcpy(&call->header, bytes, skip);
    if (call->header.flags & WIRE_BODY_EXTENDED) {
        memcpy(&call->extension, bytes + skip, sizeof call->extension);
        skip += sizeof call->extension;
    }
    cat->no_memory |= !dump_bytes_add(&call->payload, bytes + skip, head.length_bytes - skip);
    for (uint32_t part = 0; part < call->header.parts_following && cat->left; part++) {
        bytes = dump_body_next(&cat->at, &head);
        cat->left--;
        cat->no_memory |= !dump_bytes_add(&call->payload, bytes + sizeof call->header,
                                          head.length_bytes - sizeof call->header);
    }
    find_method(call);
    return true;
}

/* JSON text; what cannot be read as a message is hex. malloc'ed. */
static char *message_text(const ProtobufCMessageDescriptor *type, const uint8_t *bytes,
                          size_t count) {
    char *text = NULL;
    if (type && gateway_transcode_out(type, bytes, count, &text) == 0)
        return text;
    text = malloc(2 * count + 3);
    if (text) {
        text[0] = '"';
        for (size_t i = 0; i < count; i++)
            snprintf(text + 1 + 2 * i, 3, "%02x", bytes[i]);
        memcpy(text + 1 + 2 * count, "\"", 2);
    }
    return text;
}

static void print_call(struct cat *cat, const struct call *call,
                       const struct runtime_result *result, const char *request,
                       const char *answer) {
    static const uint8_t none[16];
    char name[160], key[33] = "";
    if (call->method)
        snprintf(name, sizeof name, "%.100s/%.50s", call->service->descriptor->name,
                 call->method->name);
    else
        snprintf(name, sizeof name, "%08x/%08x", call->header.service, call->header.method);
    if (memcmp(call->extension.idempotency_key, none, sizeof none) != 0)
        for (int i = 0; i < 16; i++)
            snprintf(key + 2 * i, 3, "%02x", call->extension.idempotency_key[i]);
    if (!cat->json) {
        printf("  tx %" PRIu64 "  %s %s%s%s -> %s %s\n", result->id, name, request,
               *key ? " key " : "", key, mrn_code_text(result->code), answer);
        return;
    }
    json_t *object = json_object();
    set_number(object, "id", result->id);
    (void)json_object_set_new(object, "method", json_string(name));
    (void)json_object_set_new(object, "request", json_loads(request, JSON_DECODE_ANY, NULL));
    if (*key)
        (void)json_object_set_new(object, "idempotencyKey", json_string(key));
    (void)json_object_set_new(object, "code", json_string(mrn_code_text(result->code)));
    json_t *parsed = json_loads(answer, JSON_DECODE_ANY, NULL);
    (void)json_object_set_new(object, result->code ? "message" : "response",
                              parsed ? parsed : json_string(answer));
    (void)json_array_append_new(cat->transactions, object);
}

static void on_result(void *context, const struct runtime_result *result) {
    struct cat *cat = context;
    struct call call = {0};
    if (!cat->record || !take_call(cat, result->id, &call))
        return;
    char *request =
        message_text(call.method ? call.method->input : NULL, call.payload.at, call.payload.count);
    char *answer;
    if (result->code == MRN_CODE_OK)
        answer = message_text(call.method ? call.method->output : NULL, result->bytes,
                              result->length_bytes);
    else
        answer = strndup((const char *)result->bytes, result->length_bytes);
    if (request && answer)
        print_call(cat, &call, result, request, answer);
    else
        cat->no_memory = true;
    free(request);
    free(answer);
    dump_bytes_free(&call.payload);
}

/* ---- state ---- */

static void number_or_hex(const uint8_t *bytes, uint32_t count, char *text, size_t room) {
    uint64_t value;
    if (count == sizeof value) {
        memcpy(&value, bytes, sizeof value);
        snprintf(text, room, "%" PRIu64, value);
        return;
    }
    for (uint32_t i = 0; i < count && 2 * i + 3 <= room; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
}

static void on_entry(void *user, const struct mrn_application *application,
                     const struct mrn_table_spec *table, const void *key, const void *value) {
    struct cat *cat = user;
    if (cat->row_count == cat->row_room) {
        size_t room = cat->row_room ? 2 * cat->row_room : 256;
        struct row *grown = realloc(cat->rows, room * sizeof *grown);
        if (!grown) {
            cat->no_memory = true;
            return;
        }
        cat->rows = grown;
        cat->row_room = room;
    }
    struct row *row = &cat->rows[cat->row_count++];
    *row = (struct row){.application = application, .table = table};
    if (table->key_bytes == 8)
        memcpy(&row->order, key, 8);
    number_or_hex(key, table->key_bytes, row->key, sizeof row->key);
    number_or_hex(value, table->value_bytes, row->value, sizeof row->value);
}

static int compare_rows(const void *left, const void *right) {
    const struct row *a = left, *b = right;
    if (a->table != b->table)
        return a->table < b->table ? -1 : 1;
    if (a->order != b->order)
        return a->order < b->order ? -1 : 1;
    return strcmp(a->key, b->key);
}

static json_t *print_state(struct cat *cat) {
    const struct restore_state *s = &cat->state;
    struct runtime_facts facts;
    char hash[65];
    runtime_facts(s->runtime, &facts);
    runtime_entries(s->runtime, on_entry, cat);
    if (cat->row_count)
        qsort(cat->rows, cat->row_count, sizeof *cat->rows, compare_rows);
    dump_name_text(&s->state_hash, hash);
    json_t *state = json_object(), *tables = json_object();
    set_number(state, "seq", s->seq);
    set_hash(state, "stateHash", &s->state_hash);
    set_hash(state, "resultHash", &facts.result_hash);
    if (!cat->json)
        printf("state after epoch %" PRIu64 ": hash %s, %u active and %u retired ranges, %u "
               "idempotency keys\n",
               s->seq, hash, facts.ranges_active, facts.ranges_retired, facts.idempotency_keys);
    for (size_t i = 0; i < cat->row_count; i++) {
        const struct row *row = &cat->rows[i];
        char name[160];
        snprintf(name, sizeof name, "%.80s/%.70s", row->application->name, row->table->name);
        if (!cat->json) {
            if (i == 0 || cat->rows[i - 1].table != row->table)
                printf("%s\n", name);
            printf("  %s %s\n", row->key, row->value);
            continue;
        }
        json_t *table = json_object_get(tables, name);
        if (!table)
            (void)json_object_set_new(tables, name, table = json_object());
        (void)json_object_set_new(table, row->key, json_string(row->value));
    }
    (void)json_object_set_new(state, "tables", tables);
    return state;
}

/* ---- the command ---- */

static void tell(void *context, const struct dump_progress *done) {
    struct cat *cat = context;
    if (cat->show.terminal)
        ctl_tell(&cat->show, done);
}

/* The state before the first epoch that is asked for; if the store has none, whatever leads to the
 * last one: then only the epochs after that can be shown. */
static int open_state(struct cat *cat, uint64_t *ret_to) {
    struct dump_command *c = cat->c;
    uint64_t end, id = c->cluster_id == UINT64_MAX ? 0 : c->cluster_id;
    int error = restore_state_open(&cat->state, &c->store, &c->key, id, c->epoch, &end, c->text);
    if (error)
        return error;
    *ret_to = c->epoch == UINT64_MAX ? end : c->epoch;
    cat->from = c->from == UINT64_MAX ? *ret_to : c->from;
    if (cat->from < 1 || cat->from > *ret_to) {
        snprintf(c->text, sizeof c->text, "--from is above --epoch, or 0");
        return MRN_ERR_INVALID;
    }
    if (!cat->state.base || cat->state.base->head.seq < cat->from) {
        if (end >= *ret_to)
            return 0;
        snprintf(c->text, sizeof c->text, "the store leads to epoch %" PRIu64 " only", end);
        return MRN_ERR_NOT_FOUND;
    }
    uint64_t base = cat->state.base->head.seq;
    restore_state_close(&cat->state);
    error = restore_state_open(&cat->state, &c->store, &c->key, id, cat->from - 1, &end, c->text);
    if (!error && end >= *ret_to)
        return 0;
    restore_state_close(&cat->state);
    fprintf(stderr,
            "maroonctl: the store does not lead to epoch %" PRIu64
            " from before it: what follows the dump of epoch %" PRIu64 "\n",
            cat->from, base);
    return restore_state_open(&cat->state, &c->store, &c->key, id, *ret_to, &end, c->text);
}

int ctl_cat(struct dump_command *c) {
    static struct cat cat;
    const struct restore_hooks hooks = {
        .progress = tell, .epoch = on_epoch, .result = on_result, .context = &cat};
    const char *folder = getenv("TMPDIR");
    char file[600];
    uint64_t to;
    cat.c = c;
    cat.json = c->config->json == CONFIG_ON;
    cat.epochs = json_array();
    cat.show = (struct dump_show){.terminal = isatty(STDERR_FILENO), .since_ns = ctl_now_ns()};
    snprintf(file, sizeof file, "%.500s/maroonctl-XXXXXX", folder && *folder ? folder : "/tmp");
    int fd = mkstemp(file);
    if (fd < 0)
        return ctl_dump_failed(c, "dump cat", MRN_ERR_IO);
    close(fd);
    int error = open_state(&cat, &to);
    if (!error)
        error = restore_state_run(&cat.state, to, file, &hooks, c->text);
    if (!error) {
        json_t *state = print_state(&cat);
        json_t *all = json_pack("{s:O, s:o}", "epochs", cat.epochs, "state", state);
        if (cat.json) {
            json_dumpf(all, stdout, JSON_INDENT(1));
            printf("\n");
        }
        json_decref(all);
    }
    (void)unlink(file);
    json_decref(cat.epochs);
    free(cat.rows);
    restore_state_close(&cat.state);
    if (!error && cat.no_memory)
        error = MRN_ERR_NO_MEMORY;
    return error ? ctl_dump_failed(c, "dump cat", error) : 0;
}
