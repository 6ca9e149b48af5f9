/* config_internal: the table of keys as data, shared by the files of this room.
 *
 * Pure; static const storage. Any thread may call. */
#ifndef MAROON_CONFIG_INTERNAL_H
#define MAROON_CONFIG_INTERNAL_H

#include "config/config.h"

enum config_kind { CONFIG_KIND_NUMBER, CONFIG_KIND_WORD, CONFIG_KIND_TEXT };

enum config_form { /* what the text of a key must look like */
                   CONFIG_FORM_PLAIN,
                   CONFIG_FORM_NAME,     /* a-z 0-9 - */
                   CONFIG_FORM_PATH,     /* of a file or directory */
                   CONFIG_FORM_SECRET,   /* as PLAIN, never printed */
                   CONFIG_FORM_IPV4,     /* A.B.C.D */
                   CONFIG_FORM_PREFIX,   /* A.B.C.D or A.B.C.D/BITS */
                   CONFIG_FORM_URLS,     /* /ip4/A/udp/P,... */
                   CONFIG_FORM_LINKS,    /* A.B.C.D=PATH[:server],... */
                   CONFIG_FORM_CPUS,     /* number,... */
                   CONFIG_FORM_HTTPS,    /* http(s)://HOST:PORT,... */
                   CONFIG_FORM_ENDPOINT, /* HOST:PORT,... or off */
};

struct config_key {
    const char *section;     /* title, at the first key of a section; else NULL */
    const char *field;       /* "heartbeat_interval_us" */
    const char *environment; /* short name, or NULL */
    const char *unit;
    const char *words;        /* WORD: "a|b|c" */
    const char *default_text; /* WORD, TEXT */
    const char *sentence;
    uint64_t default_number, least, greatest; /* NUMBER */
    size_t offset_bytes, size_bytes;          /* in struct config */
    enum config_kind kind;
    enum config_form form; /* TEXT */
    unsigned programs;     /* enum config_program, or-ed */
};

extern const struct config_key config_keys[];
extern const uint32_t config_key_count;

#define CONFIG_VALUE_TEXT_BYTES 1100 /* longest text of a value, and its end */

/* Index of the key called `name` (`length` bytes, '-' equals '_'), or -1. */
int config_key_find(const char *name, size_t length);

/* "heartbeat_interval_us" -> "heartbeat-interval-us" or, if `upper`,
 * "MAROON_HEARTBEAT_INTERVAL_US". `text` has 64 bytes. */
const char *config_key_flag(const struct config_key *key, char *text);
const char *config_key_environment(const struct config_key *key, char *text);

/* Sets the field of `key` from text. Returns 0, or MRN_ERR_INVALID with the field untouched. */
int config_value_set(struct config *config, const struct config_key *key, const char *text);

/* Sets the field of `key` to its default. */
void config_value_default(struct config *config, const struct config_key *key);

/* The field of `key` as text (CONFIG_VALUE_TEXT_BYTES). */
const char *config_value_text(const struct config *config, const struct config_key *key,
                              char *text);

/* Its default as text, with its unit (`text`: 64 bytes). */
const char *config_default_text(const struct config_key *key, char *text);

const char *config_version(void);

/* What is allowed for `key`, in words (CONFIG_VALUE_TEXT_BYTES). */
const char *config_value_allowed(const struct config_key *key, char *text);

/* Fills what is derived and checks values against each other. Returns as config_load. */
int config_check(struct config *config, char *ret_error);

/* Lists of the text forms. Each returns the number of entries (0 for ""), or MRN_ERR_INVALID. */
int config_urls_parse(const char *text, struct config_url *ret_urls, uint32_t max);
int config_links_parse(const char *text, struct config_link *ret_links, uint32_t max);
int config_cpus_parse(const char *text, uint32_t *ret_cpus, uint32_t max);

/* "10.1.2.3" or, when `ret_prefix_bits` is given, also "10.1.2.3/24" (else 24). 0 or
 * MRN_ERR_INVALID. */
int config_ipv4_parse(const char *text, uint32_t *ret_ipv4, uint32_t *ret_prefix_bits);

/* Plain decimal number, nothing else. Returns 0 or MRN_ERR_INVALID. */
int config_number_parse(const char *text, uint64_t *ret_number);

/* Steps through a comma-separated list: copies the next entry into `entry` (`room` bytes). Returns
 * 1; 0 at the end; MRN_ERR_INVALID for an empty or too long entry. */
int config_list_next(const char **cursor, char *entry, size_t room);

#endif
