#include "config/config_internal.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define N CONFIG_NODE
#define G CONFIG_GATEWAY
#define C CONFIG_CTL
#define FIELD_SIZE(field) sizeof(((struct config *)0)->field)

/* A section's title is a row without a field, so that the table stays one list. */
const struct config_key config_keys[] = {
#define CONFIG_SECTION(title) {.section = title},
#define CONFIG_NUMBER(name, type, units, value, low, high, who, short_name, text) \
    {.kind = CONFIG_KIND_NUMBER,                                                  \
     .field = #name,                                                              \
     .unit = units,                                                               \
     .default_number = value,                                                     \
     .least = low,                                                                \
     .greatest = high,                                                            \
     .programs = who,                                                             \
     .environment = short_name,                                                   \
     .sentence = text,                                                            \
     .offset_bytes = offsetof(struct config, name),                               \
     .size_bytes = FIELD_SIZE(name)},
#define CONFIG_WORD(name, enumeration, list, value, who, short_name, text) \
    {.kind = CONFIG_KIND_WORD,                                             \
     .field = #name,                                                       \
     .unit = "",                                                           \
     .words = list,                                                        \
     .default_text = value,                                                \
     .programs = who,                                                      \
     .environment = short_name,                                            \
     .sentence = text,                                                     \
     .offset_bytes = offsetof(struct config, name),                        \
     .size_bytes = FIELD_SIZE(name)},
#define CONFIG_TEXT(name, room, shape, value, who, short_name, text) \
    {.kind = CONFIG_KIND_TEXT,                                       \
     .form = CONFIG_FORM_##shape,                                    \
     .field = #name,                                                 \
     .unit = "",                                                     \
     .default_text = value,                                          \
     .programs = who,                                                \
     .environment = short_name,                                      \
     .sentence = text,                                               \
     .offset_bytes = offsetof(struct config, name),                  \
     .size_bytes = FIELD_SIZE(name)},
#include "config/config_keys.def"
#undef CONFIG_SECTION
#undef CONFIG_NUMBER
#undef CONFIG_WORD
#undef CONFIG_TEXT
};

#undef N
#undef G
#undef C

const uint32_t config_key_count = sizeof config_keys / sizeof config_keys[0];
_Static_assert(sizeof config_keys / sizeof config_keys[0] <= CONFIG_KEYS_MAX,
               "struct config has a source for each row");

static char plain(char c) {
    return c == '-' ? '_' : c;
}

int config_key_find(const char *name, size_t length) {
    for (uint32_t i = 0; i < config_key_count; i++) {
        const char *field = config_keys[i].field;
        if (field == NULL || strlen(field) != length)
            continue;
        size_t at = 0;
        while (at < length && plain(name[at]) == field[at])
            at++;
        if (at == length)
            return (int)i;
    }
    return -1;
}

const char *config_key_flag(const struct config_key *key, char *text) {
    snprintf(text, 64, "%s", key->field);
    for (char *c = text; *c != '\0'; c++)
        if (*c == '_')
            *c = '-';
    return text;
}

const char *config_key_environment(const struct config_key *key, char *text) {
    snprintf(text, 64, "MAROON_%s", key->field);
    for (char *c = text; *c != '\0'; c++)
        *c = (char)toupper((unsigned char)*c);
    return text;
}

enum config_source config_source_of(const struct config *config, const char *key) {
    int i = config_key_find(key, strlen(key));
    return i < 0 ? CONFIG_SOURCE_DEFAULT : (enum config_source)config->source[i];
}
