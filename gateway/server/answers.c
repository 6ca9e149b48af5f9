/* Answers: results, errors, states of transactions. */
#include "gateway/server/server.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/transcode/transcode.h"
#include "proto/wire.h"
#include <maroon/error.h>

#define STRINGIFY_MAX(length) (6 * (length) + 1) /* every byte as \u00xx */

void server_respond(struct request *r, unsigned status, const char *type, void *bytes,
                    size_t length) {
    r->response = MHD_create_response_from_buffer(length, bytes, MHD_RESPMEM_MUST_FREE);
    r->status = status;
    if (r->response)
        MHD_add_response_header(r->response, "Content-Type", type);
    else
        free(bytes);
}

void server_respond_text(struct request *r, unsigned status, const char *type, const char *text) {
    char *copy = strdup(text);
    if (copy)
        server_respond(r, status, type, copy, strlen(copy));
}

void server_header(struct request *r, const char *name, const char *value) {
    if (r->response)
        MHD_add_response_header(r->response, name, value);
}

/* The inside of a JSON string; returns its length. */
static size_t escape(char *out, const char *message, size_t length) {
    size_t at = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)message[i];
        if (c == '"' || c == '\\') {
            out[at++] = '\\';
            out[at++] = (char)c;
        } else if (c < 32)
            at += (size_t)snprintf(out + at, 8, "\\u%04x", c);
        else
            out[at++] = (char)c;
    }
    out[at] = 0;
    return at;
}

static void respond_error(struct request *r, uint32_t code, unsigned status, const char *message,
                          size_t length) {
    char *text = malloc(STRINGIFY_MAX(length) + 128);
    if (!text)
        return;
    size_t at = (size_t)snprintf(text, 64, "{\"code\":\"%s\",\"message\":\"",
                                 code ? mrn_code_text(code) : "unknown");
    at += escape(text + at, message, length);
    memcpy(text + at, "\"}", 2);
    atomic_fetch_add(&r->server->errors, 1);
    server_respond(r, status, "application/json", text, at + 2);
}

void server_refuse(struct request *r, enum mrn_code code, unsigned status, const char *message) {
    respond_error(r, code, status ? status : mrn_code_http_status(code), message, strlen(message));
}

static void server_refuse_for_now(struct request *r, enum mrn_code code, const char *message) {
    server_refuse(r, code, 0, message);
    server_header(r, "Retry-After", "1");
}

/* ---- of a transaction ---- */

/* In every answer: printf would take longer than the header does. */
static void add_number(struct request *r, const char *name, uint64_t number) {
    char text[24], *at = text + sizeof text;
    *--at = 0;
    do
        *--at = (char)('0' + number % 10);
    while (number /= 10);
    server_header(r, name, at);
}

static void add_id(struct request *r) {
    if (r->answer.id == MRN_GATEWAY_ID_NONE)
        return;
    add_number(r, "Maroon-Tx-Id", r->answer.id);
    if (r->answer.epoch_seq)
        add_number(r, "Maroon-Epoch", r->answer.epoch_seq);
}

static void add_location(struct request *r) {
    char text[64];
    snprintf(text, sizeof text, "/v1/tx/%" PRIu64 "?owner=%06" PRIx32, r->answer.id,
             r->answer.owner_mark);
    server_header(r, "Location", text);
}

static void answer_error(struct request *r) {
    bool has_id = r->answer.id != MRN_GATEWAY_ID_NONE && !r->query;
    switch (r->answer.error) {
    case MRN_ERR_FULL:
        server_refuse_for_now(r, MRN_CODE_RESOURCE_EXHAUSTED,
                              "too many transactions are in flight; try again");
        break;
    case MRN_ERR_TOO_LARGE:
        server_refuse(r, MRN_CODE_RESOURCE_EXHAUSTED, 0,
                      "the request is larger than a transaction may be");
        break;
    case MRN_ERR_TIMEOUT:
        if (has_id)
            server_refuse(r, MRN_CODE_DEADLINE_EXCEEDED, 0,
                          "no result yet; the transaction goes on, ask for it by its id");
        else if (r->query)
            server_refuse_for_now(r, MRN_CODE_UNAVAILABLE, "no node answers");
        else /* sealed off, and not sent again yet */
            server_refuse(r, MRN_CODE_DEADLINE_EXCEEDED, 0,
                          "no result yet; the transaction goes on");
        break;
    case MRN_ERR_CLOSED:
        server_refuse_for_now(r, MRN_CODE_UNAVAILABLE,
                              has_id ? "the gateway stops; the transaction goes on, ask for it by "
                                       "its id at another one"
                                     : "the gateway stops");
        break;
    default: /* of enum mrn_error the few that the library gives */
        server_refuse_for_now(r, MRN_CODE_UNAVAILABLE,
                              "no node can be reached, or none grants a key range");
    }
    if (has_id) {
        add_id(r);
        add_location(r);
    }
}

static void answer_async(struct request *r) {
    char text[96];
    snprintf(text, sizeof text, "{\"id\":\"%" PRIu64 "\",\"state\":\"pending\"}", r->answer.id);
    server_respond_text(r, 202, "application/json", text);
    server_header(r, "Preference-Applied", "respond-async");
    add_id(r);
    add_location(r);
}

static void answer_call(struct request *r) {
    const struct mrn_gateway_answer *a = &r->answer;
    if (r->respond_async) {
        answer_async(r);
        return;
    }
    if (a->code == UINT32_MAX)
        server_refuse(r, MRN_CODE_DATA_LOSS, 0, "executed, but its result is no longer kept");
    else if (a->code)
        respond_error(r, a->code, mrn_code_http_status(a->code), (const char *)a->bytes,
                      a->length_bytes);
    else if (r->json) {
        char *json;
        if (gateway_transcode_out(r->output, a->bytes, a->length_bytes, &json))
            server_refuse(r, MRN_CODE_INTERNAL, 0, "the result cannot be shown as JSON");
        else
            server_respond(r, 200, "application/json", json, strlen(json));
    } else {
        server_respond(r, 200, "application/proto", (void *)(uintptr_t)a->bytes, a->length_bytes);
        r->answer.bytes = NULL;
    }
    add_id(r);
    if (a->code == MRN_CODE_UNKNOWN && !a->epoch_seq) /* in doubt */
        add_location(r);
}

/* ---- GET /v1/tx/<id> ---- */

/* The response type of a method key; NULL when no application here has it. */
static const ProtobufCMessageDescriptor *output_of(uint32_t method_key) {
    for (uint32_t a = 0; a < SERVER_APPLICATIONS; a++)
        for (uint32_t i = 0; i < server_applications[a]->service_count; i++) {
            const ProtobufCServiceDescriptor *s = server_applications[a]->services[i].descriptor;
            for (uint32_t m = 0; m < s->n_methods; m++)
                if (mrn_gateway_method_key(s->name, s->methods[m].name) == method_key)
                    return s->methods[m].output;
        }
    return NULL;
}

static char *result_json(const struct mrn_gateway_answer *a) {
    const ProtobufCMessageDescriptor *output = output_of(a->method_key);
    char *json = NULL;
    if (output && !gateway_transcode_out(output, a->bytes, a->length_bytes, &json))
        return json;
    return strdup("null"); /* of an application this gateway does not know */
}

static const char *state_text(const struct mrn_gateway_answer *a) {
    static const char *const states[] = {"unknown",  "pending", "committed", "executed",
                                         "rejected", "sealed",  "expired"};
    bool no_call = a->outcome == WIRE_TX_EXECUTED && a->code && !a->method_key;
    uint32_t outcome = no_call ? WIRE_TX_REJECTED : a->outcome;
    return outcome < sizeof states / sizeof states[0] ? states[outcome] : "unknown";
}

static void answer_query(struct request *r) {
    const struct mrn_gateway_answer *a = &r->answer;
    bool executed = a->outcome == WIRE_TX_EXECUTED;
    char *result = executed && !a->code ? result_json(a) : NULL;
    size_t room = 256 + (result ? strlen(result) : STRINGIFY_MAX(a->length_bytes));
    char *text = malloc(room);
    if (text) {
        size_t at = (size_t)snprintf(
            text, room, "{\"id\":\"%" PRIu64 "\",\"state\":\"%s\",\"epoch\":\"%" PRIu64 "\"", a->id,
            state_text(a), a->epoch_seq);
        if (result)
            at += (size_t)snprintf(text + at, room - at, ",\"result\":%s", result);
        else if (executed) {
            at += (size_t)snprintf(text + at, room - at, ",\"code\":\"%s\",\"message\":\"",
                                   mrn_code_text(a->code));
            at += escape(text + at, (const char *)a->bytes, a->length_bytes);
            text[at++] = '"';
        }
        text[at++] = '}';
        server_respond(r, 200, "application/json", text, at);
    }
    free(result);
    add_id(r);
}

void server_answer(struct request *r) {
    if (r->answer.error)
        answer_error(r);
    else if (r->query)
        answer_query(r);
    else
        answer_call(r);
}
