/* perf_load: transactions for a measurement, and what became of them.
 *
 *   open --perf_load_due--> submit ... --perf_load_done--> counted
 *
 * Two ways to offer load:
 *   closed  `flight` transactions are always under way; latency from the submission
 *   open    arrivals at a fixed rate; latency from the moment the transaction was due, also when it
 *           could be submitted only later, so a stall is not hidden by the load it keeps away
 *
 * Vocabulary: warm-up  the first transactions: made, answered, not counted.
 *
 * Threads: one. Ownership: memory is the load's. Not a library: an answer that is not the expected
 * one ends the process, since the figures would mean nothing. */
#ifndef MAROON_PERF_LOAD_H
#define MAROON_PERF_LOAD_H

#include <stdbool.h>

#include "perf/histogram.h"

enum perf_load_app { PERF_LOAD_BANK, PERF_LOAD_ECHO };

#define PERF_LOAD_ACCOUNTS 1000
#define PERF_LOAD_REQUEST_MAX 1400

struct perf_load_config {
    enum perf_load_app app;
    uint32_t payload_bytes;  /* ECHO: of the payload. BANK: ignored, a transfer is 22 bytes */
    uint32_t flight;         /* most under way at once; closed loop: always so many */
    double rate_per_s;       /* 0: closed loop */
    uint64_t count, warm_up; /* transactions counted, and before them */
};

struct perf_load {
    struct perf_load_config config;
    struct perf_histogram latency;       /* ns */
    uint64_t start_ns, first_ns, end_ns; /* begin; of the counted part: first due, last answer */
    uint64_t submitted, answered, refused;
    uint64_t *due_ns; /* by ticket; 0: warm-up */
    uint32_t *free;
    uint32_t free_count;
    uint64_t random;
    uint32_t service, deposit, method;
};

/* Returns 0 or MRN_ERR_NO_MEMORY. */
int perf_load_open(struct perf_load *load, const struct perf_load_config *config);
void perf_load_close(struct perf_load *load);

/* The next request, if one is due now. Writes it to `request` (PERF_LOAD_REQUEST_MAX) and returns
 * its length, service and method; 0 when none is due. It is due again until taken. */
uint32_t perf_load_due(struct perf_load *load, uint64_t now_ns, uint8_t *request,
                       uint32_t *ret_service, uint32_t *ret_method);

/* The due request was taken: returns its ticket. */
uint32_t perf_load_take(struct perf_load *load, uint64_t now_ns);

/* It was answered with this code. */
void perf_load_done(struct perf_load *load, uint32_t ticket, uint64_t now_ns, uint32_t code);

static inline bool perf_load_over(const struct perf_load *load) {
    return load->answered >= load->config.count + load->config.warm_up;
}

#endif
