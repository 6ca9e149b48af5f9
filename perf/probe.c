#include "perf/probe.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#define OPTIONS_MAX 32

static struct {
    const char *name, *value;
    bool known;
} options[OPTIONS_MAX];
static uint32_t option_count;

void probe_die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "maroon-perf-probe: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

static void options_take(int count, char **arguments) {
    for (int i = 0; i < count; i++) {
        char *equals = strchr(arguments[i], '=');
        if (strncmp(arguments[i], "--", 2) || !equals || option_count == OPTIONS_MAX)
            probe_die("%s: an option is --name=value", arguments[i]);
        *equals = 0;
        options[option_count].name = arguments[i] + 2;
        options[option_count++].value = equals + 1;
    }
}

const char *probe_text(const char *name, const char *otherwise) {
    for (uint32_t i = 0; i < option_count; i++)
        if (!strcmp(options[i].name, name)) {
            options[i].known = true;
            return options[i].value;
        }
    return otherwise;
}

uint64_t probe_number(const char *name, uint64_t otherwise) {
    const char *text = probe_text(name, NULL);
    char *end;
    uint64_t value = text ? strtoull(text, &end, 10) : otherwise;
    if (text && (!*text || *end))
        probe_die("--%s=%s is not a number", name, text);
    return value;
}

double probe_real(const char *name, double otherwise) {
    const char *text = probe_text(name, NULL);
    return text ? strtod(text, NULL) : otherwise;
}

void probe_options_end(void) {
    for (uint32_t i = 0; i < option_count; i++)
        if (!options[i].known)
            probe_die("--%s is no option of this measurement", options[i].name);
}

json_t *probe_latency(const struct perf_histogram *h) {
    static const double shares[] = {0.01, 0.05,  0.1,   0.25,  0.5,    0.75,   0.9,     0.95, 0.98,
                                    0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 0.99999, 1};
    json_t *curve = json_array();
    for (uint32_t i = 0; i < sizeof shares / sizeof shares[0]; i++)
        json_array_append_new(
            curve, json_pack("[fI]", shares[i], (json_int_t)perf_histogram_at(h, shares[i])));
    return json_pack(
        "{sI sf sI sI sI sI sI sI so}", "count", (json_int_t)h->count, "mean",
        h->count ? (double)h->sum / (double)h->count : 0.0, "min", (json_int_t)h->least, "p50",
        (json_int_t)perf_histogram_at(h, 0.5), "p90", (json_int_t)perf_histogram_at(h, 0.9), "p99",
        (json_int_t)perf_histogram_at(h, 0.99), "p999", (json_int_t)perf_histogram_at(h, 0.999),
        "max", (json_int_t)h->greatest, "curve", curve);
}

void probe_print(json_t *object) {
    if (!object || json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6)))
        probe_die("no memory for the result");
    printf("\n");
    fflush(stdout);
    json_decref(object);
}

int main(int count, char **arguments) {
    static const struct {
        const char *name;
        int (*run)(void);
    } probes[] = {{"inproc", probe_inproc},
#ifdef PERF_NET
                  {"client", probe_client},
                  {"echo", probe_echo},
#endif
#ifdef PERF_DUMP
                  {"dump-make", probe_dump_make},
                  {"dump-fetch", probe_dump_fetch},
                  {"dump-floor", probe_dump_floor},
#endif
                  {"hops", probe_hops},
                  {"memcpy", probe_memcpy},
                  {"sync", probe_sync},
                  {"udp", probe_udp},
                  {"hiccups", probe_hiccups},
                  {"http", probe_http},
                  {"http-floor", probe_http_floor},
                  {"snapshot", probe_snapshot},
                  {"ranges", probe_ranges}};
    if (count > 1)
        options_take(count - 2, arguments + 2);
    if (sodium_init() < 0)
        probe_die("no random numbers");
    for (uint32_t i = 0; count > 1 && i < sizeof probes / sizeof probes[0]; i++)
        if (!strcmp(probes[i].name, arguments[1]))
            return probes[i].run();
    fprintf(
        stderr,
        "maroon-perf-probe "
        "inproc|client|echo|hops|memcpy|sync|udp|hiccups|http|http-floor|snapshot|ranges|dump-make|"
        "dump-fetch|dump-floor "
        "[--name=value ...]: "
        "see perf/probe.h; perf/run.sh runs the profiles\n");
    return 2;
}
