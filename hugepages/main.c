/* maroon-hugepages: what a config needs in hugepages; reserves it and gives it back. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hugepages/need.h"
#include "hugepages/pages.h"
#include <maroon/error.h>

enum { OK = 0, REFUSED = 1, USAGE = 2 };
#define NODES_MAX 64
#define WORDS_MAX 128

struct options {
    struct system system;
    struct config config;
    struct hugepages_need need;
    uint32_t size_kb, processes, node;
    bool node_given;
    const char *mount;
    char why_node[HUGEPAGES_WHY_BYTES];
    uint64_t wanted; /* pages */
};

static const char usage[] =
    "usage: maroon-hugepages check|plan|reserve|release [OPTIONS] [KEYS OF THE CONFIG]\n"
    "  plan      the arithmetic: what a node of this config needs, and where\n"
    "  check     are the pages there? Tried by taking them. Status 1 when not\n"
    "  reserve   takes what is missing from the kernel, all or nothing (root)\n"
    "  release   gives back exactly what reserve took (root)\n"
    "\n"
    "  --config FILE, --KEY VALUE   the node's config, as maroon-node takes it\n"
    "  --for node|gateway           whose config it is (node)\n"
    "  --processes N                so many of them on this machine (1)\n"
    "  --page 2M|1G                 size of the pages (2M)\n"
    "  --numa-node N                where they lie; else by the port, the `cpus`, or 0\n"
    "  --mount DIR                  reserve: mounts a hugetlbfs there as well, for other "
    "programs;\n"
    "                               maroon needs none\n"
    "  --root DIR                   DIR/sys, DIR/proc, DIR/run instead of the machine's (tests)\n";

static const char *page_name(uint32_t size_kb) {
    return size_kb == HUGEPAGES_2M_KB ? "2 MiB" : "1 GiB";
}

/* ---- plan, check ---- */

static void print_pools(const struct options *o, const struct record *r) {
    static const uint32_t sizes[] = {HUGEPAGES_2M_KB, HUGEPAGES_1G_KB};
    struct pages p;
    bool any = false;
    for (uint32_t node = 0; node < NODES_MAX; node++)
        for (uint32_t i = 0; i < 2; i++)
            if (!pages_read(&o->system, node, sizes[i], &p)) {
                any = true;
                printf("NUMA node %" PRIu32 ", %s: %" PRIu64 " pages, %" PRIu64 " free, %" PRIu64
                       " of them reserved by this tool\n",
                       node, page_name(sizes[i]), p.total, p.free, record_pages(r, node, sizes[i]));
            }
    if (!any)
        puts("this kernel has no hugepages");
}

/* Mounts of hugetlbfs, and whether a file can be made in them. */
static void print_mounts(const struct options *o) {
    char text[16384], *rest = text, *row, path[256], probe[300];
    bool any = false;
    if (system_read(&o->system, text, sizeof text, "proc/mounts"))
        return;
    while ((row = strsep(&rest, "\n")) != NULL) {
        if (sscanf(row, "%*s %255s", path) != 1 || !strstr(row, " hugetlbfs "))
            continue;
        any = true;
        snprintf(probe, sizeof probe, "%s/.maroon-%d", path, (int)getpid());
        FILE *file = o->system.root[0] ? NULL : fopen(probe, "wx");
        printf("mount %s: %s\n", path,
               o->system.root[0] ? "not tried"
               : file            ? "usable"
                                 : strerror(errno));
        if (file) {
            fclose(file);
            (void)unlink(probe);
        }
    }
    if (!any)
        puts("mounts: none (maroon needs none)");
}

static int plan(const struct options *o) {
    hugepages_need_print(&o->config, &o->need, o->processes, stdout);
    printf("NUMA node: %" PRIu32 " (%s)\n", o->node, o->why_node);
    return OK;
}

/* Pages that processes of ours may have: free ones, and what was reserved for them (they may be
 * running already). */
static bool enough(const struct options *o, const struct pages *p, const struct record *r) {
    uint64_t ours = record_pages(r, o->node, o->size_kb);
    ours = ours < p->total ? ours : p->total;
    return (p->free > ours ? p->free : ours) >= o->wanted;
}

static int check(const struct options *o) {
    struct record r;
    struct pages p;
    int error = record_open(&o->system, false, &r);
    if (error) {
        fprintf(stderr, "maroon-hugepages: the record in run/maroon-hugepages: %s\n",
                mrn_error_text(error));
        return REFUSED;
    }
    print_pools(o, &r);
    print_mounts(o);
    error = pages_read(&o->system, o->node, o->size_kb, &p);
    bool there = !error && enough(o, &p, &r);
    printf("needed: %" PRIu64 " pages of %s on NUMA node %" PRIu32 " (%s): %s\n", o->wanted,
           page_name(o->size_kb), o->node, o->why_node,
           error   ? "there are no pages of this size"
           : there ? "there"
                   : "missing; run maroon-hugepages reserve");
    if (there && !o->system.root[0] && p.free >= o->wanted) {
        there = !pages_try(o->size_kb, o->wanted);
        printf("tried to take them: %s\n",
               there ? "they can be had"
                     : "refused: a limit of the control group (hugetlb) or cpuset is in the way");
    }
    record_close(&r);
    return there ? OK : REFUSED;
}

/* ---- reserve, release ---- */

static int mount_pages(const struct options *o, struct record *r) {
    char data[32];
    for (uint32_t i = 0; i < r->count; i++)
        if (r->entries[i].is_mount && !strcmp(r->entries[i].mount, o->mount))
            return OK;
    snprintf(data, sizeof data, "pagesize=%" PRIu32 "M", o->size_kb >> 10);
    bool made = mkdir(o->mount, 0755) == 0;
    if (!made && errno != EEXIST) {
        fprintf(stderr, "maroon-hugepages: %s: %s\n", o->mount, strerror(errno));
        return REFUSED;
    }
    if (mount("hugetlbfs", o->mount, "hugetlbfs", MS_NOSUID | MS_NODEV, data)) {
        fprintf(stderr, "maroon-hugepages: no mount at %s: %s\n", o->mount, strerror(errno));
        return REFUSED;
    }
    if (record_add_mount(r, o->mount, made) || record_save(r)) {
        (void)umount(o->mount);
        fputs("maroon-hugepages: the record cannot be written\n", stderr);
        return REFUSED;
    }
    printf("mounted %s\n", o->mount);
    return OK;
}

static int reserve_pages(const struct options *o, struct record *r) {
    char why[PAGES_WHY_BYTES];
    struct pages p;
    int error = pages_read(&o->system, o->node, o->size_kb, &p);
    if (error) {
        fprintf(stderr, "maroon-hugepages: NUMA node %" PRIu32 " has no pages of %s here: %s\n",
                o->node, page_name(o->size_kb), mrn_error_text(error));
        return REFUSED;
    }
    if (enough(o, &p, r)) {
        printf("NUMA node %" PRIu32 ": %" PRIu64 " pages of %s are there already\n", o->node,
               o->wanted, page_name(o->size_kb));
        return OK;
    }
    uint64_t ours = record_pages(r, o->node, o->size_kb);
    uint64_t more = o->wanted - (ours ? ours : p.free);
    if (record_add_pages(r, o->node, o->size_kb, more))
        error = MRN_ERR_FULL;
    if (!error) /* before it is done: what is written down and not there hurts nobody */
        error = record_save(r);
    if (error) {
        fprintf(stderr, "maroon-hugepages: the record cannot be written: %s\n",
                mrn_error_text(error));
        return REFUSED;
    }
    error = pages_reserve(&o->system, &p, more, why);
    if (error) {
        (void)record_add_pages(r, o->node, o->size_kb, -more);
        (void)record_save(r);
        fprintf(stderr, "maroon-hugepages: %s\n", why);
        return REFUSED;
    }
    printf("NUMA node %" PRIu32 ": reserved %" PRIu64 " pages of %s (%" PRIu64 " there before)\n",
           o->node, more, page_name(o->size_kb), p.total);
    if (!o->system.root[0] && !ours && pages_try(o->size_kb, o->wanted)) {
        fputs("maroon-hugepages: reserved, but they cannot be taken: a limit of the control group "
              "(hugetlb) or cpuset is in the way\n",
              stderr);
        return REFUSED;
    }
    return OK;
}

static int reserve(const struct options *o) {
    struct record r;
    int error = record_open(&o->system, true, &r);
    if (error) {
        fprintf(stderr, "maroon-hugepages: the record in run/maroon-hugepages: %s%s\n",
                mrn_error_text(error), error == MRN_ERR_DENIED ? "; be root" : "");
        return REFUSED;
    }
    int status = reserve_pages(o, &r);
    if (status == OK && o->mount)
        status = mount_pages(o, &r);
    if (r.count == 0)
        (void)record_save(&r);
    record_close(&r);
    return status;
}

static int release_entry(const struct options *o, struct record_entry *e) {
    char why[PAGES_WHY_BYTES];
    struct pages p;
    if (e->is_mount) {
        if (umount(e->mount) && errno != EINVAL && errno != ENOENT) {
            fprintf(stderr, "maroon-hugepages: %s stays mounted: %s\n", e->mount, strerror(errno));
            return REFUSED;
        }
        if (e->made)
            (void)rmdir(e->mount);
        printf("unmounted %s\n", e->mount);
        return OK;
    }
    int error = pages_read(&o->system, e->node, e->size_kb, &p);
    if (!error)
        error = pages_release(&o->system, &p, e->count, why);
    else
        snprintf(why, sizeof why, "%s", mrn_error_text(error));
    if (error) {
        fprintf(stderr, "maroon-hugepages: %s\n", why);
        return REFUSED;
    }
    printf("NUMA node %" PRIu32 ": gave back %" PRIu64 " pages of %s\n", e->node, e->count,
           page_name(e->size_kb));
    return OK;
}

static int release(const struct options *o) {
    struct record r;
    int status = OK, error = record_open(&o->system, true, &r);
    if (error) {
        fprintf(stderr, "maroon-hugepages: the record in run/maroon-hugepages: %s%s\n",
                mrn_error_text(error), error == MRN_ERR_DENIED ? "; be root" : "");
        return REFUSED;
    }
    if (r.count == 0)
        puts("nothing of this tool's is reserved");
    uint32_t kept = 0;
    for (uint32_t i = r.count; i-- > 0;) /* mounts came last */
        if (release_entry(o, &r.entries[i]))
            status = REFUSED;
        else
            r.entries[i] = (struct record_entry){.is_mount = false};
    for (uint32_t i = 0; i < r.count; i++)
        if (r.entries[i].is_mount || r.entries[i].count)
            r.entries[kept++] = r.entries[i];
    r.count = kept;
    if (record_save(&r))
        status = REFUSED;
    record_close(&r);
    return status;
}

/* ---- arguments ---- */

static int refuse(const char *format, const char *word) {
    fputs("maroon-hugepages: ", stderr);
    fprintf(stderr, format, word);
    fputs("; see --help\n", stderr);
    return USAGE;
}

static bool number(const char *text, uint32_t least, uint32_t most, uint32_t *ret_number) {
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || value < least || value > most)
        return false;
    *ret_number = (uint32_t)value;
    return true;
}

/* Takes an option of ours. Returns OK (taken), USAGE, or -1: it is one of the config's. */
static int own_option(struct options *o, const char *name, const char *value,
                      enum config_program *program) {
    static const char *const names[] = {"--root", "--mount",     "--for",
                                        "--page", "--processes", "--numa-node"};
    bool known = false;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        known |= !strcmp(name, names[i]);
    if (!known)
        return -1;
    if (!value)
        return refuse("%s needs a value", name);
    if (!strcmp(name, "--root"))
        o->system.root = value;
    else if (!strcmp(name, "--mount") && value[0] == '/' && strlen(value) < 256)
        o->mount = value;
    else if (!strcmp(name, "--for") && (!strcmp(value, "node") || !strcmp(value, "gateway")))
        *program = !strcmp(value, "node") ? CONFIG_NODE : CONFIG_GATEWAY;
    else if (!strcmp(name, "--page") && (!strcmp(value, "2M") || !strcmp(value, "1G")))
        o->size_kb = !strcmp(value, "2M") ? HUGEPAGES_2M_KB : HUGEPAGES_1G_KB;
    else if (!strcmp(name, "--processes") && number(value, 1, 1024, &o->processes))
        ;
    else if (!strcmp(name, "--numa-node") && number(value, 0, NODES_MAX - 1, &o->node))
        o->node_given = true;
    else
        return refuse("%s has a value that is not allowed", name);
    return OK;
}

static int read_options(struct options *o, int argc, char **argv) {
    enum config_program program = CONFIG_NODE;
    char *words[WORDS_MAX] = {argv[0]}, text[CONFIG_ERROR_BYTES];
    int count = 1;
    _Static_assert(CONFIG_ERROR_BYTES >= NET_TEXT_BYTES, "one text for both");
    for (int i = 2; i < argc; i++) {
        int taken = own_option(o, argv[i], i + 1 < argc ? argv[i + 1] : NULL, &program);
        if (taken == USAGE)
            return USAGE;
        if (taken == OK)
            i++;
        else if (count < WORDS_MAX - 1)
            words[count++] = argv[i];
    }
    if (config_load(&o->config, program, count, words, environ, text) ||
        hugepages_need(&o->config, &o->need, text)) {
        fprintf(stderr, "maroon-hugepages: %s\n", text);
        return USAGE;
    }
    if (o->mount && o->system.root[0])
        return refuse("%s mounts on this machine, not under a --root", "--mount");
    if (o->node_given)
        snprintf(o->why_node, sizeof o->why_node, "--numa-node");
    else
        o->node = hugepages_need_where(&o->config, &o->system, o->why_node);
    o->wanted = hugepages_need_pages(&o->need, o->size_kb, o->processes);
    return OK;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int (*run)(const struct options *options);
    } commands[] = {{"plan", plan}, {"check", check}, {"reserve", reserve}, {"release", release}};
    static struct options o = {.system = {""}, .size_kb = HUGEPAGES_2M_KB, .processes = 1};
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            fputs(usage, stdout);
            return OK;
        }
    if (argc > 1 && !strcmp(argv[1], "--version")) {
        puts("maroon-hugepages " MAROON_VERSION);
        return OK;
    }
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof commands[0]; i++)
        if (!strcmp(argv[1], commands[i].name)) {
            int status = read_options(&o, argc, argv);
            return status ? status : commands[i].run(&o);
        }
    fputs(usage, stderr);
    return USAGE;
}
