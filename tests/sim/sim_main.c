/* sim: runs seeds, prints progress, and for a failure the seed, the check, and how to see it. */
#include "sim_commit.h" /* made by the build */
#include "tests/sim/sim.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define JOBS_MAX 16
#define SEED_SECONDS 60 /* of CPU; a seed that takes longer hangs */
#define CHECK_BYTES 96
#define ALL_FAULTS_SEEDS 1000 /* of fewer, chance may leave one out */

struct options {
    uint64_t seeds, base, seed;
    bool one, trace, shrink, verbose, mixed, tally, all_faults;
    uint64_t trace_from_ns;
    uint32_t seconds, jobs, without;
    uint64_t failures_max;
    const char *config, *list;
};

/* What the workers share with their parent. */
struct board {
    struct {
        _Atomic uint64_t seed, seeds, failures;
        _Atomic uint64_t virtual_ns, steps, packets, epochs, transactions;
        _Atomic uint64_t tally[SIM_TALLY_COUNT], tally_seeds[SIM_TALLY_COUNT];
    } jobs[JOBS_MAX];
    _Atomic uint64_t next;
};

#ifdef MAROON_MUTANTS
enum replica_mutant replica_mutant;
#endif

static struct sim *running; /* for the handlers of signals and failed asserts */
static volatile sig_atomic_t caught;

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- asserts and signals become violations of the seed under way ---- */

void __assert_fail(const char *expression, const char *file, unsigned int line,
                   const char *function);
void __assert_fail(const char *expression, const char *file, unsigned int line,
                   const char *function) {
    if (running && running->escape)
        sim_fail(running, "assert", "%s:%u: %s: %s", file, line, function, expression);
    fprintf(stderr, "%s:%u: %s: %s\n", file, line, function, expression);
    abort();
}

static void on_signal(int number) {
    caught = number;
    if (running && running->escape)
        sim_fail(running, number == SIGVTALRM ? "hang" : "signal",
                 number == SIGVTALRM ? "more than %d s of CPU" : "signal %d",
                 number == SIGVTALRM ? SEED_SECONDS : number);
    _exit(3);
}

static void handle_signals(void) {
    static char stack[65536];
    stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&alternative, NULL);
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_NODEFER};
    sigaction(SIGVTALRM, &action, NULL);
#ifndef __SANITIZE_ADDRESS__ /* its own report is better */
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGFPE, &action, NULL);
#endif
}

static void watchdog(uint32_t seconds) {
    struct itimerval timer = {.it_value = {.tv_sec = seconds}};
    setitimer(ITIMER_VIRTUAL, &timer, NULL);
}

/* ---- one seed ---- */

static int config_of(const struct options *options, uint64_t seed, struct sim_config *config) {
    sim_config_draw(config, seed);
    int error = options->config ? sim_config_override(config, options->config) : 0;
    config->faults &= ~options->without;
    return error;
}

static bool run_seed(const struct options *options, uint64_t seed, uint32_t without, bool trace,
                     struct sim **ret_sim) {
    struct sim_config config;
    config_of(options, seed, &config); /* checked at start */
    config.faults &= ~without;
    struct sim *sim = sim_create(seed, &config);
    sim->trace = trace;
    sim->trace_from_ns = options->trace_from_ns;
    running = sim;
    watchdog(SEED_SECONDS);
    bool passed = sim_run(sim);
    watchdog(0);
    running = NULL;
    *ret_sim = sim;
    return passed;
}

#ifdef MAROON_MUTANTS
static int choose_mutant(const char *name) {
    static const char *const names[REPLICA_MUTANT_COUNT] = {
        "none",
#    define MUTANT_DEF(mutant, sentence) #    mutant,
#    include "dataplane/replica/mutants.def"
#    undef MUTANT_DEF
    };
    for (unsigned i = 0; i < REPLICA_MUTANT_COUNT; i++)
        if (!strcmp(names[i], name)) {
            replica_mutant = (enum replica_mutant)i;
            return 0;
        }
    return -1;
}

/* A seed that fails without the mutant as well has not caught it. */
static bool fails_anyway(const struct options *options, uint64_t seed) {
    enum replica_mutant mutant = replica_mutant;
    struct sim *sim;
    if (mutant == REPLICA_MUTANT_NONE)
        return false;
    replica_mutant = REPLICA_MUTANT_NONE;
    bool passed = run_seed(options, seed, 0, false, &sim);
    sim_destroy(sim);
    replica_mutant = mutant;
    return !passed;
}
#else
static int choose_mutant(const char *name) {
    (void)name;
    return -1;
}

static bool fails_anyway(const struct options *options, uint64_t seed) {
    (void)options, (void)seed;
    return false;
}
#endif

static void print_without(uint32_t without, FILE *out) {
    const char *comma = "";
    if (without)
        fputs(" --without ", out);
    for (uint32_t fault = 0; fault < SIM_FAULT_COUNT; fault++)
        if (without >> fault & 1) {
            fprintf(out, "%s%s", comma, sim_fault_word((enum sim_fault)fault));
            comma = ",";
        }
}

/* Leaves out one class of faults after the other while the same check still fails. */
static uint32_t shrink(const struct options *options, uint64_t seed, const char *check) {
    uint32_t without = options->without;
    struct sim *sim;
    struct sim_config config;
    config_of(options, seed, &config);
    for (uint32_t fault = 0; fault < SIM_FAULT_COUNT; fault++) {
        if (!(config.faults >> fault & 1))
            continue;
        bool passed = run_seed(options, seed, without | 1u << fault, false, &sim);
        if (!passed && !strcmp(sim->check, check))
            without |= 1u << fault;
        sim_destroy(sim);
    }
    return without;
}

static void print_failure(const struct options *options, const struct sim *sim) {
    printf("\nFAILED seed %llu at %.3f ms: %s\n  %s\n  ", (unsigned long long)sim->seed,
           (double)sim->now_ns / 1e6, sim->check, sim->message);
    sim_config_print(&sim->config, stdout);
    char check[CHECK_BYTES];
    snprintf(check, sizeof check, "%s", sim->check);
    uint32_t without = options->without;
    if (options->shrink)
        without = shrink(options, sim->seed, check);
    printf("  commit %s, replay: sim --seed %llu --trace%s%s", SIM_COMMIT,
           (unsigned long long)sim->seed, options->config ? " --config " : "",
           options->config ? options->config : "");
    print_without(without, stdout);
    printf("\n");
    fflush(stdout);
}

static void count(struct board *board, uint32_t job, const struct sim *sim, bool passed) {
    board->jobs[job].seeds++;
    board->jobs[job].failures += !passed;
    board->jobs[job].virtual_ns += sim->now_ns;
    board->jobs[job].steps += sim->steps;
    board->jobs[job].packets += sim->network.sent;
    board->jobs[job].epochs += sim->checks.committed;
    board->jobs[job].transactions += sim->checks.fact_count;
    for (uint32_t t = 0; t < SIM_TALLY_COUNT; t++) {
        board->jobs[job].tally[t] += sim->tally[t];
        board->jobs[job].tally_seeds[t] += sim->tally[t] > 0;
    }
}

/* ---- many seeds ---- */

static uint64_t failures(const struct board *board) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < JOBS_MAX; i++)
        sum += board->jobs[i].failures;
    return sum;
}

/* Every kind of seed in turn: half ordinary, the others where bugs hide. */
static uint64_t mixed_seed(uint64_t seed, uint64_t turn) {
    static const uint64_t kinds[] = {0, SIM_SEED_ROUGH,   0, SIM_SEED_CHURN,  0, SIM_SEED_ROUGH,
                                     0, SIM_SEED_AMNESIA, 0, SIM_SEED_RETURN, 0, SIM_SEED_DEAD};
    if (turn % 96 == 34) /* rare kinds */
        return SIM_SEED_CONTEST + seed;
    if (turn % 24 == 22)
        return (turn % 48 == 22 ? SIM_SEED_GONE : SIM_SEED_FULL) + seed;
    return kinds[turn % (sizeof kinds / sizeof *kinds)] + seed;
}

/* Runs seeds until there are none left, time is up, or enough have failed. */
static void work(const struct options *options, const uint64_t *first, uint64_t first_count,
                 struct board *board, uint32_t job, double end) {
    handle_signals();
    uint64_t total = first_count + options->seeds;
    for (;;) {
        uint64_t turn = board->next++;
        if (turn >= total || (turn >= first_count && seconds_now() > end) ||
            failures(board) >= options->failures_max)
            return;
        uint64_t seed = turn < first_count ? first[turn] : options->base + turn - first_count;
        if (options->mixed && turn >= first_count)
            seed = mixed_seed(seed, turn - first_count);
        board->jobs[job].seed = seed;
        struct sim *sim;
        double begun = seconds_now();
        bool passed = run_seed(options, seed, 0, false, &sim) || fails_anyway(options, seed);
        count(board, job, sim, passed);
        if (options->verbose)
            printf("seed %llu %s %.0f ms, %.0f virtual ms, %llu steps, %llu epochs\n",
                   (unsigned long long)seed, passed ? "ok" : "FAILED",
                   (seconds_now() - begun) * 1e3, (double)sim->now_ns / 1e6,
                   (unsigned long long)sim->steps, (unsigned long long)sim->checks.committed);
        if (!passed)
            print_failure(options, sim);
        sim_destroy(sim);
    }
}

/* How often each thing happened, and in how many seeds. Returns how many never did. */
static uint32_t print_tally(const struct board *board, FILE *out) {
    static const char *const sentences[SIM_TALLY_COUNT] = {
#define SIM_TALLY(name, sentence) sentence,
#include "tests/sim/sim_tally.def"
#undef SIM_TALLY
    };
    uint32_t never = 0;
    for (uint32_t t = 0; t < SIM_TALLY_COUNT; t++) {
        uint64_t times = 0, seeds = 0;
        for (uint32_t i = 0; i < JOBS_MAX; i++) {
            times += board->jobs[i].tally[t];
            seeds += board->jobs[i].tally_seeds[t];
        }
        never += times == 0;
        fprintf(out, "%12llu in %6llu seeds  %s%s\n", (unsigned long long)times,
                (unsigned long long)seeds, sentences[t], times ? "" : "  NEVER");
    }
    return never;
}

static void print_totals(const struct board *board, double wall) {
    uint64_t t[7] = {0};
    for (uint32_t i = 0; i < JOBS_MAX; i++) {
        const uint64_t values[] = {board->jobs[i].seeds,       board->jobs[i].failures,
                                   board->jobs[i].virtual_ns,  board->jobs[i].steps,
                                   board->jobs[i].packets,     board->jobs[i].epochs,
                                   board->jobs[i].transactions};
        for (uint32_t v = 0; v < 7; v++)
            t[v] += values[v];
    }
    double hours = (double)t[2] / 3.6e12;
    printf("%llu seeds, %llu failed; %.2f virtual hours in %.0f s of wall time: %.1f virtual hours "
           "per wall hour\n%llu steps, %llu packets, %llu epochs, %llu transactions\n",
           (unsigned long long)t[0], (unsigned long long)t[1], hours, wall, hours / (wall / 3600),
           (unsigned long long)t[3], (unsigned long long)t[4], (unsigned long long)t[5],
           (unsigned long long)t[6]);
}

static int run_jobs(const struct options *options, const uint64_t *first, uint64_t first_count) {
    struct board *board =
        mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED) {
        perror("mmap");
        return 2;
    }
    double begin = seconds_now(), end = begin + (options->seconds ? options->seconds : 1e12);
    fflush(stdout);
    if (options->jobs == 1) {
        work(options, first, first_count, board, 0, end);
    } else {
        for (uint32_t job = 0; job < options->jobs; job++)
            if (fork() == 0) {
                setvbuf(stdout, NULL, _IOFBF, 1 << 16);
                work(options, first, first_count, board, job, end);
                fflush(stdout);
                _exit(0);
            }
        int status;
        while (wait(&status) > 0 || errno == EINTR)
            if (!WIFEXITED(status) || WEXITSTATUS(status)) {
                printf("a worker ended with status %d\n", status);
                board->jobs[0].failures++;
            }
    }
    uint32_t never = options->tally ? print_tally(board, stdout) : 0;
    print_totals(board, seconds_now() - begin);
    bool missed = never && options->all_faults && board->next >= ALL_FAULTS_SEEDS;
    if (missed)
        printf("FAILED: %u things that a simulation is for never happened\n", never);
    return failures(board) || missed ? 1 : 0;
}

/* ---- the command line ---- */

static const char usage[] =
    "sim [--seeds N] [--seed-base B] [--mixed] [--seconds S] [--jobs J] [--first FILE]\n"
    "    [--keep-going] [--tally] [--all-faults]\n"
    "    [--config nodes=3,durable=1,...] [--without loss,crash,...] [--no-shrink] [--verbose]\n"
    "sim --seed N [--trace] [--trace-from MS] [--config ...] [--without ...]\n"
    "  --mixed       half of the seeds as they come, the others of the kinds in sim_config.c\n"
    "  --tally       prints how often each thing of sim_tally.def happened; --all-faults: and "
    "fails\n"
    "                when one never did\n"
    "  --first FILE  seeds to run before the others, one per line ('#' begins a comment)\n"
    "sim-mutant --mutant NAME ...  the same with a planted bug of dataplane/replica/mutants.def\n";

static int parse_faults(const char *text, uint32_t *ret_mask) {
    while (*text) {
        size_t length = strcspn(text, ",");
        uint32_t found = SIM_FAULT_COUNT;
        for (uint32_t fault = 0; fault < SIM_FAULT_COUNT; fault++) {
            const char *word = sim_fault_word((enum sim_fault)fault);
            if (strlen(word) == length && !strncmp(word, text, length))
                found = fault;
        }
        if (found == SIM_FAULT_COUNT)
            return -1;
        *ret_mask |= 1u << found;
        text += length + (text[length] == ',');
    }
    return 0;
}

static int parse(int count, char **arguments, struct options *o) {
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i];
        const char *value = i + 1 < count ? arguments[i + 1] : "";
        bool taken = true;
        if (!strcmp(name, "--seeds"))
            o->seeds = strtoull(value, NULL, 0);
        else if (!strcmp(name, "--seed-base"))
            o->base = strtoull(value, NULL, 0);
        else if (!strcmp(name, "--seconds"))
            o->seconds = (uint32_t)strtoul(value, NULL, 0);
        else if (!strcmp(name, "--jobs"))
            o->jobs = (uint32_t)strtoul(value, NULL, 0);
        else if (!strcmp(name, "--first"))
            o->list = value;
        else if (!strcmp(name, "--config"))
            o->config = value;
        else if (!strcmp(name, "--trace-from"))
            o->trace_from_ns = strtoull(value, NULL, 0) * SIM_MS;
        else if (!strcmp(name, "--mutant")) {
            if (choose_mutant(value))
                return -1;
        } else if (!strcmp(name, "--without")) {
            if (parse_faults(value, &o->without))
                return -1;
        } else if (!strcmp(name, "--seed")) {
            o->seed = strtoull(value, NULL, 0);
            o->one = true;
        } else
            taken = false;
        if (taken) {
            if (!*value)
                return -1;
            i++;
        } else if (!strcmp(name, "--trace"))
            o->trace = true;
        else if (!strcmp(name, "--no-shrink"))
            o->shrink = false;
        else if (!strcmp(name, "--mixed"))
            o->mixed = true;
        else if (!strcmp(name, "--tally"))
            o->tally = true;
        else if (!strcmp(name, "--all-faults"))
            o->tally = o->all_faults = true;
        else if (!strcmp(name, "--verbose"))
            o->verbose = true;
        else if (!strcmp(name, "--keep-going"))
            o->failures_max = UINT64_MAX;
        else
            return -1;
    }
    return o->jobs >= 1 && o->jobs <= JOBS_MAX ? 0 : -1;
}

static uint64_t *read_list(const char *path, uint64_t *ret_count) {
    uint64_t *seeds = NULL, n = 0;
    char line[256];
    FILE *file = path ? fopen(path, "r") : NULL;
    if (path && !file) {
        perror(path);
        exit(2);
    }
    while (file && fgets(line, sizeof line, file)) {
        char *end;
        uint64_t seed = strtoull(line, &end, 0);
        if (end == line)
            continue;
        seeds = realloc(seeds, (n + 1) * sizeof *seeds);
        if (!seeds)
            abort();
        seeds[n++] = seed;
    }
    if (file)
        fclose(file);
    *ret_count = n;
    return seeds;
}

static int run_one(const struct options *options) {
    struct sim *sim;
    handle_signals();
    bool passed = run_seed(options, options->seed, 0, options->trace, &sim);
    if (!passed)
        print_failure(options, sim);
    else {
        printf("seed %llu ok: %.0f virtual ms, %llu epochs, %llu transactions; ",
               (unsigned long long)sim->seed, (double)sim->now_ns / 1e6,
               (unsigned long long)sim->checks.committed,
               (unsigned long long)sim->checks.fact_count);
        sim_config_print(&sim->config, stdout);
    }
    sim_destroy(sim);
    return passed ? 0 : 1;
}

int main(int count, char **arguments) {
    struct options options = {
        .seeds = 100, .base = 1, .jobs = 1, .shrink = true, .failures_max = 1};
    struct sim_config config;
    if (parse(count, arguments, &options) || config_of(&options, 1, &config)) {
        fputs(usage, stderr);
        return 2;
    }
    if (options.one)
        return run_one(&options);
    uint64_t first_count;
    uint64_t *first = read_list(options.list, &first_count);
    int status = run_jobs(&options, first, first_count);
    free(first);
    return status;
}
