#include "perf/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/wire.h"
#include <maroon/code.h>
#include <maroon/error.h>

#define ACCOUNT_BASE (UINT64_C(1) << 56) /* 9 bytes as a varint */
#define DEPOSIT 1000000000

static uint32_t name(const char *text) {
    return wire_name_id(text, strlen(text));
}

int perf_load_open(struct perf_load *l, const struct perf_load_config *config) {
    memset(l, 0, sizeof *l);
    l->config = *config;
    l->due_ns = calloc(config->flight, sizeof *l->due_ns);
    l->free = calloc(config->flight, sizeof *l->free);
    if (!l->due_ns || !l->free) {
        perf_load_close(l);
        return MRN_ERR_NO_MEMORY;
    }
    for (uint32_t i = 0; i < config->flight; i++)
        l->free[l->free_count++] = i;
    l->random = 1;
    bool bank = config->app == PERF_LOAD_BANK;
    l->service = name(bank ? "bank.v1.Bank" : "echo.v1.Echo");
    l->method = name(bank ? "Transfer" : "Echo");
    l->deposit = name("Deposit");
    if (bank && l->config.warm_up < PERF_LOAD_ACCOUNTS)
        l->config.warm_up = PERF_LOAD_ACCOUNTS; /* the accounts are made first */
    return 0;
}

void perf_load_close(struct perf_load *l) {
    free(l->due_ns);
    free(l->free);
    l->due_ns = NULL;
    l->free = NULL;
}

/* ---- requests ---- */

static uint32_t put_varint(uint8_t *at, uint64_t value) {
    uint32_t length = 0;
    for (; value >= 128; value >>= 7)
        at[length++] = (uint8_t)(value | 128);
    at[length++] = (uint8_t)value;
    return length;
}

static uint32_t put_field(uint8_t *at, uint32_t number, uint64_t value) {
    at[0] = (uint8_t)(number << 3);
    return 1 + put_varint(at + 1, value);
}

static uint64_t draw(struct perf_load *l, uint64_t bound) {
    l->random = l->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (l->random >> 33) % bound;
}

static uint32_t write_request(struct perf_load *l, uint8_t *at, uint32_t *ret_method) {
    *ret_method = l->method;
    if (l->config.app == PERF_LOAD_ECHO) {
        uint32_t length = 1;
        at[0] = 1 << 3 | 2;
        length += put_varint(at + 1, l->config.payload_bytes);
        memset(at + length, 'm', l->config.payload_bytes);
        return length + l->config.payload_bytes;
    }
    if (l->submitted < PERF_LOAD_ACCOUNTS) {
        *ret_method = l->deposit;
        uint32_t length = put_field(at, 1, ACCOUNT_BASE + l->submitted);
        return length + put_field(at + length, 2, DEPOSIT);
    }
    uint64_t from = draw(l, PERF_LOAD_ACCOUNTS);
    uint64_t to = (from + 1 + draw(l, PERF_LOAD_ACCOUNTS - 1)) % PERF_LOAD_ACCOUNTS;
    uint32_t length = put_field(at, 1, ACCOUNT_BASE + from);
    length += put_field(at + length, 2, ACCOUNT_BASE + to);
    return length + put_field(at + length, 3, 1 + draw(l, 3));
}

/* ---- when ---- */

static uint64_t due_at(const struct perf_load *l, uint64_t now_ns) {
    if (l->config.rate_per_s <= 0)
        return now_ns;
    return l->start_ns + (uint64_t)((double)l->submitted * 1e9 / l->config.rate_per_s);
}

uint32_t perf_load_due(struct perf_load *l, uint64_t now_ns, uint8_t *request,
                       uint32_t *ret_service, uint32_t *ret_method) {
    if (!l->start_ns)
        l->start_ns = now_ns;
    bool deposits = l->config.app == PERF_LOAD_BANK && l->submitted < PERF_LOAD_ACCOUNTS;
    if (l->submitted == PERF_LOAD_ACCOUNTS && l->config.app == PERF_LOAD_BANK &&
        l->answered < PERF_LOAD_ACCOUNTS)
        return 0; /* transfers would meet accounts that are not there yet */
    if (!l->free_count || l->submitted >= l->config.count + l->config.warm_up ||
        (!deposits && due_at(l, now_ns) > now_ns))
        return 0;
    *ret_service = l->service;
    return write_request(l, request, ret_method);
}

uint32_t perf_load_take(struct perf_load *l, uint64_t now_ns) {
    uint32_t ticket = l->free[--l->free_count];
    if (l->submitted == PERF_LOAD_ACCOUNTS && l->config.app == PERF_LOAD_BANK) /* rate counts now */
        l->start_ns = now_ns - (uint64_t)(l->config.rate_per_s > 0
                                              ? (double)l->submitted * 1e9 / l->config.rate_per_s
                                              : 0);
    l->due_ns[ticket] = l->submitted < l->config.warm_up ? 0 : due_at(l, now_ns);
    if (l->submitted == l->config.warm_up)
        l->first_ns = now_ns;
    l->submitted++;
    return ticket;
}

void perf_load_done(struct perf_load *l, uint32_t ticket, uint64_t now_ns, uint32_t code) {
    if (code != MRN_CODE_OK) {
        fprintf(stderr, "transaction %llu was answered with code %u\n",
                (unsigned long long)l->answered, code);
        exit(1);
    }
    l->answered++;
    if (l->due_ns[ticket]) {
        perf_histogram_add(&l->latency, now_ns - l->due_ns[ticket]);
        l->end_ns = now_ns;
    }
    l->free[l->free_count++] = ticket;
}
