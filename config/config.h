/* config: one table of keys for all programs (config_keys.def), read from four places.
 *
 *   flag > environment > file (--config FILE) > default
 *
 *   config_load --> config->action: RUN, or what the user asked for instead (HELP, VERSION, CHECK,
 *                                     PREFLIGHT)
 *
 * Vocabulary
 *   key       "heartbeat-interval-us": flag --heartbeat-interval-us V or =V, environment
 *             MAROON_HEARTBEAT_INTERVAL_US (some have a short name besides: PORT), file line
 *             `heartbeat-interval-us = V`; `_` and `-` are the same in flags and files
 *   source    which of the four places a value came from
 *   URL       /ip4/A/udp/P, /dns4/H/udp/P; tcp is an alias of udp
 *
 * Threads: one. No globals, no malloc (config_url_resolve asks libc's resolver, which does).
 * Ownership: struct config holds its values; eal_args and arguments point into argv.
 * Errors: enum mrn_error, with one line in `ret_error` that names source, key, value and what is
 * allowed; *ret_config is then undefined.
 *
 * Invariants after success: every value is within the limits of its key; 2 * quorum > node_count;
 * index < node_count; program-specific rules of config_check.c hold. */
#ifndef MAROON_CONFIG_H
#define MAROON_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CONFIG_NODES_MAX 7
#define CONFIG_LINKS_MAX 8
#define CONFIG_CPUS_MAX 4
#define CONFIG_ERROR_BYTES 512
#define CONFIG_RANGE_NONE UINT64_MAX
#define CONFIG_KEYS_MAX 96

enum config_program { CONFIG_NODE = 1, CONFIG_GATEWAY = 2, CONFIG_CTL = 4 }; /* bits in the table */

enum config_action { CONFIG_RUN = 0, CONFIG_HELP, CONFIG_VERSION, CONFIG_CHECK, CONFIG_PREFLIGHT };

enum config_source {
    CONFIG_SOURCE_DEFAULT = 0,
    CONFIG_SOURCE_FILE,
    CONFIG_SOURCE_ENVIRONMENT,
    CONFIG_SOURCE_FLAG
};

/* Values of the keys that take a word, in the order of the words in config_keys.def. */
enum config_durability { /* AUTO is resolved when the config is checked */
                         CONFIG_DURABILITY_AUTO = 0,
                         CONFIG_DURABILITY_MEMORY,
                         CONFIG_DURABILITY_DISK
};
enum config_fabric {
    CONFIG_FABRIC_UDP = 0,
    CONFIG_FABRIC_AF_PACKET,
    CONFIG_FABRIC_AF_XDP,
    CONFIG_FABRIC_MEMIF,
    CONFIG_FABRIC_VIRTIO_USER,
    CONFIG_FABRIC_VHOST,
    CONFIG_FABRIC_PCI
};
enum config_hugepages { CONFIG_HUGEPAGES_AUTO = 0, CONFIG_HUGEPAGES_ON, CONFIG_HUGEPAGES_OFF };
enum config_poll { CONFIG_POLL_BUSY = 0, CONFIG_POLL_ADAPTIVE };
enum config_arbiter { CONFIG_ARBITER_AUTO = 0, CONFIG_ARBITER_EMBEDDED, CONFIG_ARBITER_ETCD };
enum config_log_level { CONFIG_LOG_ERROR = 0, CONFIG_LOG_WARN, CONFIG_LOG_INFO, CONFIG_LOG_DEBUG };
enum config_switch { CONFIG_OFF = 0, CONFIG_ON };

struct config_url {
    char host[64]; /* address or name, as written */
    uint32_t ipv4; /* host byte order; 0: a name not resolved yet (config_url_resolve) */
    uint16_t port;
};

struct config_link { /* one point-to-point link of fabric memif, virtio_user or vhost */
    uint32_t peer_ipv4;
    char device[108]; /* socket path */
    bool server;
};

struct config {
    /* One field per key, named as the key; what each means is its sentence in config_keys.def. */
#define CONFIG_SECTION(title)
#define CONFIG_NUMBER(field, type, ...) type field;
#define CONFIG_WORD(field, enumeration, ...) enum enumeration field;
#define CONFIG_TEXT(field, room, ...) char field[room];
#include "config/config_keys.def"
#undef CONFIG_SECTION
#undef CONFIG_NUMBER
#undef CONFIG_WORD
#undef CONFIG_TEXT

    /* Derived by config_load. */
    enum config_program program;
    enum config_action action;
    struct config_url node[CONFIG_NODES_MAX]; /* node program: `nodes`; others: `node_urls` */
    uint32_t node_count;                      /* n; 1 when `nodes` is empty (node[0] is then
                                                 127.0.0.1:port) */
    uint32_t quorum;                          /* k */
    uint32_t own_ipv4;                        /* of `address`, else of node[index], else 0 */
    uint32_t prefix_bits;                     /* of `address`, else 24 */
    uint32_t next_hop_ipv4;                   /* 0: none */
    uint32_t http_ipv4;                       /* of http_address */
    struct config_link link[CONFIG_LINKS_MAX];
    uint32_t link_count;
    uint32_t cpu[CONFIG_CPUS_MAX];
    uint32_t cpu_count;          /* 0: threads are not pinned */
    char config_file[256];       /* "" when none was read */
    const char *preflight_root;  /* of --preflight=ROOT, into argv; else "" */
    uint64_t digest;             /* of all values; equal configs have equal digests */
    const char *const *eal_args; /* what followed "--"; NULL-terminated */
    uint32_t eal_arg_count;
    const char *arguments[16]; /* maroonctl: its words, and what of its flags is no key */
    uint32_t argument_count;

    uint8_t source[CONFIG_KEYS_MAX]; /* enum config_source per key, in the order of the table */
};

/* Reads the four places, checks every value alone and then together. `environment`: envp of main,
 * NULL for none. When --help, --version is given nothing else is checked.
 * Returns 0, or MRN_ERR_INVALID (a value), MRN_ERR_NOT_FOUND (an unknown key), MRN_ERR_IO (the
 * config file can't be read) with a line in `ret_error` (CONFIG_ERROR_BYTES). */
int config_load(struct config *ret_config, enum config_program program, int argc,
                char *const argv[], char *const environment[], char *ret_error);

/* Writes each key of the program with value, unit and source, a line each (--check-config).
 * Passwords are shown as "(set)". */
void config_print(const struct config *config, FILE *out);

/* Writes --help: usage, each key with its unit, default, limits and sentence. */
void config_print_help(enum config_program program, FILE *out);

/* Writes "maroon-node 0.1.0". */
void config_print_version(enum config_program program, FILE *out);

/* Writes docs/configuration.md. */
void config_print_markdown(FILE *out);

/* Writes the man page of a program, as roff. False for an unknown name. */
bool config_print_man(const char *name, FILE *out);

/* "maroon-node", "maroon-gateway", "maroonctl". */
const char *config_program_name(enum config_program program);

/* The word of a fabric, as in the table: "af_packet". */
const char *config_fabric_name(enum config_fabric fabric);

/* Source of the value of a key ("port"); CONFIG_SOURCE_DEFAULT for an unknown one. */
enum config_source config_source_of(const struct config *config, const char *key);

/* Parses one URL. Returns 0 or MRN_ERR_INVALID. Pure. */
int config_url_parse(const char *text, struct config_url *ret_url);

/* Fills url->ipv4 of a /dns4 URL; blocks in the resolver. Returns 0, or MRN_ERR_UNAVAILABLE. */
int config_url_resolve(struct config_url *url);

#endif
