#include "config/config_internal.h"

#include <inttypes.h>
#include <string.h>

#ifndef MAROON_VERSION
#    define MAROON_VERSION "0.1.0"
#endif

const char *config_program_name(enum config_program program) {
    switch (program) {
    case CONFIG_NODE: return "maroon-node";
    case CONFIG_GATEWAY: return "maroon-gateway";
    case CONFIG_CTL: return "maroonctl";
    }
    return "?";
}

static const char *source_name(enum config_source source) {
    switch (source) {
    case CONFIG_SOURCE_DEFAULT: return "default";
    case CONFIG_SOURCE_FILE: return "file";
    case CONFIG_SOURCE_ENVIRONMENT: return "environment";
    case CONFIG_SOURCE_FLAG: return "flag";
    }
    return "?";
}

void config_print(const struct config *config, FILE *out) {
    char flag[64], value[CONFIG_VALUE_TEXT_BYTES];
    for (uint32_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        if (key->field == NULL || (key->programs & config->program) == 0)
            continue;
        fprintf(out, "%s = %s%s%s  # %s\n", config_key_flag(key, flag),
                config_value_text(config, key, value), *key->unit != '\0' ? "  # " : "", key->unit,
                source_name((enum config_source)config->source[i]));
    }
    fprintf(out, "# nodes %" PRIu32 ", quorum %" PRIu32 ", config file %s, digest %016" PRIx64 "\n",
            config->node_count, config->quorum,
            config->config_file[0] != '\0' ? config->config_file : "none", config->digest);
}

const char *config_default_text(const struct config_key *key, char *text) {
    if (key->kind != CONFIG_KIND_NUMBER)
        return key->default_text[0] != '\0' ? key->default_text : "empty";
    if (key->default_number == UINT64_MAX)
        return "none";
    snprintf(text, 64, "%" PRIu64 "%s%s", key->default_number, *key->unit != '\0' ? " " : "",
             key->unit);
    return text;
}

void config_print_help(enum config_program program, FILE *out) {
    char flag[64], value[64], allowed[CONFIG_VALUE_TEXT_BYTES];
    const char *section = NULL;
    fprintf(out, "usage: %s%s [--KEY VALUE | --KEY=VALUE]...%s\n", config_program_name(program),
            program == CONFIG_CTL ? " COMMAND" : "",
            program == CONFIG_CTL ? "" : " [-- EAL ARGUMENTS]");
    if (program == CONFIG_CTL)
        fputs("commands: status, top, epochs, ranges, leader, dump, verify\n", out);
    fputs("\nEach key can be set by flag, by the environment (MAROON_KEY_NAME, or the short name "
          "in brackets),\nor by a line `key = value` of a config file; the first of these that "
          "sets it counts.\n\n"
          "  --config FILE     read a config file (environment: MAROON_CONFIG)\n"
          "  --check-config    check, print every value with its source, and end\n",
          out);
    if (program == CONFIG_NODE)
        fputs("  --preflight[=ROOT]  is this machine prepared for the config? A line for each "
              "subject: ok, warn, fail;\n"
              "                    status 1 when one fails. ROOT/sys and ROOT/proc are read "
              "instead of the machine's (tests)\n",
              out);
    fputs("  --help, --version\n", out);
    for (uint32_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        if (key->section != NULL)
            section = key->section;
        if (key->field == NULL || (key->programs & program) == 0)
            continue;
        if (section != NULL)
            fprintf(out, "\n%s\n", section);
        section = NULL;
        fprintf(out, "  --%s%s%s%s\n", config_key_flag(key, flag),
                key->environment != NULL ? "  [" : "",
                key->environment != NULL ? key->environment : "",
                key->environment != NULL ? "]" : "");
        fprintf(out, "      %s\n      default %s; allowed: %s\n", key->sentence,
                config_default_text(key, value), config_value_allowed(key, allowed));
    }
}

const char *config_version(void) {
    return MAROON_VERSION;
}

void config_print_version(enum config_program program, FILE *out) {
    fprintf(out, "%s %s\n", config_program_name(program), MAROON_VERSION);
}

static void print_cell(const char *text, FILE *out) {
    for (; *text != '\0'; text++) {
        if (*text == '|')
            fputc('\\', out); /* a bar would end the cell */
        fputc(*text, out);
    }
}

void config_print_markdown(FILE *out) {
    char flag[64], value[64], allowed[CONFIG_VALUE_TEXT_BYTES];
    fputs("# Configuration\n\n"
          "Made from `config/config_keys.def` by `make docs`; a test checks that it is up to "
          "date.\n\n"
          "A key is set by flag (`--heartbeat-interval-us 500`), by the environment "
          "(`MAROON_HEARTBEAT_INTERVAL_US=500`, or the short name),\nor by a line "
          "`heartbeat-interval-us = 500` in a file given by `--config FILE` or `MAROON_CONFIG`. A "
          "flag goes over the environment, that over\nthe file, that over the default. "
          "`--check-config` prints each value with its source. What follows `--` is handed to "
          "DPDK's EAL.\nN: maroon-node, G: maroon-gateway, C: maroonctl.\n",
          out);
    for (uint32_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        if (key->section != NULL)
            fprintf(
                out,
                "\n## %s\n\n| key | of | default | allowed | meaning |\n|---|---|---|---|---|\n",
                key->section);
        if (key->field == NULL)
            continue;
        fprintf(out, "| `%s`", config_key_flag(key, flag));
        if (key->environment != NULL)
            fprintf(out, " (`%s`)", key->environment);
        fprintf(out, " | %s%s%s | %s | ", (key->programs & CONFIG_NODE) != 0 ? "N" : "",
                (key->programs & CONFIG_GATEWAY) != 0 ? "G" : "",
                (key->programs & CONFIG_CTL) != 0 ? "C" : "", config_default_text(key, value));
        print_cell(config_value_allowed(key, allowed), out);
        fputs(" | ", out);
        print_cell(key->sentence, out);
        fputs(" |\n", out);
    }
}
