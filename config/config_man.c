/* Man pages from the table of keys, of the programs that take all theirs from it. */
#include <inttypes.h>
#include <string.h>

#include "config/config_internal.h"

/* What the table does not say. */
struct page {
    enum config_program program;
    int section;
    const char *summary, *synopsis, *description, *status, *also;
};

static const struct page pages[] = {
    {CONFIG_NODE, 8, "a node of a maroon cluster",
     "[--KEY VALUE]... [-- EAL ARGUMENTS]\n--check-config|--preflight[=ROOT] [--KEY VALUE]...",
     "Keeps a replica of the state: agrees with the other nodes on one order of transactions, "
     "stores it, "
     "executes it, answers. A single node needs neither privileges, hugepages nor etcd. Under "
     "systemd it "
     "says READY=1 when its dataplane runs, and feeds the watchdog only while each of its threads "
     "gets on.",
     "0 after SIGINT or SIGTERM, when a leader first hands over; 1 after a fail-stop or when it "
     "could not "
     "start; 2 when the config is wrong.",
     "maroon-gateway(8), maroonctl(1), maroon-hugepages(8), maroon-nic(8)"},
    {CONFIG_GATEWAY, 8, "HTTP in front of a maroon cluster",
     "[--KEY VALUE]... [-- EAL ARGUMENTS]\n--check-config [--KEY VALUE]...",
     "Takes unary calls of the Connect protocol (POST /package.Service/Method with "
     "application/json or "
     "application/proto), makes transactions of them, sends them to all nodes, repeats them until "
     "they are "
     "executed, and answers. GET /v1/tx/ID, /v1/status, /readyz, /healthz and /metrics tell the "
     "rest.",
     "0 after SIGINT or SIGTERM; 1 when it could not start, or its pinned range is held by "
     "another; 2 when "
     "the config is wrong.",
     "maroon-node(8)"},
};

/* Text in which nothing is a request or an escape of roff. */
static void text(const char *c, FILE *out) {
    for (bool start = true; *c != '\0'; start = *c++ == '\n') {
        if (start && (*c == '.' || *c == '\''))
            fputs("\\&", out);
        if (*c == '-')
            fputs("\\-", out);
        else if (*c == '\\')
            fputs("\\e", out);
        else
            fputc(*c, out);
    }
}

static void synopsis(const struct page *page, FILE *out) {
    const char *name = config_program_name(page->program);
    for (const char *line = page->synopsis; line != NULL;) {
        const char *end = strchr(line, '\n');
        char form[160];
        snprintf(form, sizeof form, "%.*s", end != NULL ? (int)(end - line) : 159, line);
        fputs("\\fB", out);
        text(name, out);
        fputs("\\fR ", out);
        text(form, out);
        fputs(end != NULL ? "\n.br\n" : "\n", out);
        line = end != NULL ? end + 1 : NULL;
    }
}

static void key_entry(const struct config_key *key, FILE *out) {
    char flag[64], environment[64], value[64], allowed[CONFIG_VALUE_TEXT_BYTES];
    fputs(".TP\n\\fB\\-\\-", out);
    text(config_key_flag(key, flag), out);
    fputs("\\fR\n", out);
    text(key->sentence, out);
    fputs(".\n.br\nDefault ", out);
    text(config_default_text(key, value), out);
    fputs("; allowed: ", out);
    text(config_value_allowed(key, allowed), out);
    fprintf(out, ".\n.br\n%s", config_key_environment(key, environment));
    if (key->environment != NULL)
        fprintf(out, ", %s", key->environment);
    fputs("\n", out);
}

static void section(const char *title, const char *body, FILE *out) {
    fprintf(out, ".SH %s\n", title);
    text(body, out);
    fputs("\n", out);
}

bool config_print_man(const char *name, FILE *out) {
    const struct page *page = NULL;
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++)
        if (strcmp(config_program_name(pages[i].program), name) == 0)
            page = &pages[i];
    if (page == NULL)
        return false;
    fprintf(out, ".TH \"%s\" %d \"\" \"maroon %s\" \"maroon\"\n.SH NAME\n", name, page->section,
            config_version());
    text(name, out);
    fputs(" \\- ", out);
    text(page->summary, out);
    fputs("\n.SH SYNOPSIS\n", out);
    synopsis(page, out);
    section("DESCRIPTION", page->description, out);
    section(
        "KEYS",
        "Each key can be set by flag, by the environment (the names in capitals below), or by "
        "a line "
        "`key = value` of a file given by --config FILE or MAROON_CONFIG; the first of these "
        "that sets it "
        "counts. --check-config prints each value with its source; --help lists the same keys, and "
        "--version says which build this is.",
        out);
    for (uint32_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        const char *title = key->section;
        if (title != NULL) { /* a section in which this program has no key is left out */
            bool any = false;
            for (uint32_t j = i + 1; j < config_key_count && config_keys[j].section == NULL; j++)
                any |= (config_keys[j].programs & page->program) != 0;
            if (any)
                fprintf(out, ".SS %s\n", title);
        } else if ((key->programs & page->program) != 0)
            key_entry(key, out);
    }
    section("EXIT STATUS", page->status, out);
    section("SEE ALSO", page->also, out);
    return true;
}
