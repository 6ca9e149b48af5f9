#include "config/config_internal.h"

#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <maroon/error.h>

static void *field_of(struct config *config, const struct config_key *key) {
    return (char *)config + key->offset_bytes;
}

static uint64_t number_of(const struct config *config, const struct config_key *key) {
    const char *field = (const char *)config + key->offset_bytes;
    if (key->size_bytes == sizeof(uint64_t)) {
        uint64_t number;
        memcpy(&number, field, sizeof number);
        return number;
    }
    uint32_t number;
    assert(key->size_bytes == sizeof number);
    memcpy(&number, field, sizeof number);
    return number;
}

static void number_set(struct config *config, const struct config_key *key, uint64_t number) {
    if (key->size_bytes == sizeof(uint64_t)) {
        memcpy(field_of(config, key), &number, sizeof number);
        return;
    }
    uint32_t narrow = (uint32_t)number;
    assert(key->size_bytes == sizeof narrow && narrow == number);
    memcpy(field_of(config, key), &narrow, sizeof narrow);
}

/* A number, for bytes also with K, M, G or T (powers of 1024, "KiB" is the same). */
static int number_parse(const struct config_key *key, const char *text, uint64_t *ret_number) {
    char digits[32];
    size_t length = strspn(text, "0123456789");
    if (length >= sizeof digits)
        return MRN_ERR_INVALID;
    memcpy(digits, text, length);
    digits[length] = '\0';
    uint64_t number;
    if (config_number_parse(digits, &number) != 0)
        return MRN_ERR_INVALID;
    const char *suffix = text + length;
    if (*suffix != '\0') {
        static const char letters[] = "KMGT";
        const char *letter = strchr(letters, toupper((unsigned char)*suffix));
        if (strcmp(key->unit, "bytes") != 0 || letter == NULL ||
            (suffix[1] != '\0' && strcmp(suffix + 1, "iB") != 0))
            return MRN_ERR_INVALID;
        unsigned shift = 10 * (unsigned)(letter - letters + 1);
        if (number > UINT64_MAX >> shift)
            return MRN_ERR_INVALID;
        number <<= shift;
    }
    *ret_number = number;
    return 0;
}

static int number_from_text(struct config *config, const struct config_key *key, const char *text) {
    uint64_t number;
    if (key->default_number == UINT64_MAX && strcmp(text, "none") == 0) {
        number_set(config, key, UINT64_MAX);
        return 0;
    }
    if (number_parse(key, text, &number) != 0 || number < key->least || number > key->greatest)
        return MRN_ERR_INVALID;
    number_set(config, key, number);
    return 0;
}

/* Copies word number `index` of "a|b|c" into `word` (32 bytes). Returns false when there is none.
 */
static bool word_at(const char *words, unsigned index, char *word) {
    while (index-- > 0) {
        words = strchr(words, '|');
        if (words == NULL)
            return false;
        words++;
    }
    size_t length = strcspn(words, "|");
    assert(length < 32);
    memcpy(word, words, length);
    word[length] = '\0';
    return true;
}

static int word_from_text(struct config *config, const struct config_key *key, const char *text) {
    char word[32];
    for (unsigned i = 0; word_at(key->words, i, word); i++) {
        if (strcmp(word, text) == 0) {
            number_set(config, key, i);
            return 0;
        }
    }
    return MRN_ERR_INVALID;
}

static bool https_valid(const char *text) {
    char entry[256];
    int more;
    while ((more = config_list_next(&text, entry, sizeof entry)) == 1) {
        size_t scheme = strncmp(entry, "https://", 8) == 0  ? 8
                        : strncmp(entry, "http://", 7) == 0 ? 7
                                                            : 0;
        if (scheme == 0 || entry[scheme] == '\0' || strpbrk(entry + scheme, "/ ?#") != NULL)
            return false;
    }
    return more == 0;
}

static bool endpoint_valid(const char *text) {
    char entry[96];
    int more;
    if (strcmp(text, "off") == 0)
        return true;
    while ((more = config_list_next(&text, entry, sizeof entry)) == 1) {
        uint64_t port;
        const char *colon = strrchr(entry, ':');
        if (colon == NULL || colon == entry || config_number_parse(colon + 1, &port) != 0 ||
            port > 65535)
            return false;
    }
    return more == 0;
}

static bool printable(const char *text) {
    for (; *text != '\0'; text++)
        if (iscntrl((unsigned char)*text))
            return false;
    return true;
}

static bool form_valid(enum config_form form, const char *text) {
    struct config_url urls[CONFIG_NODES_MAX];
    struct config_link links[CONFIG_LINKS_MAX];
    uint32_t cpus[CONFIG_CPUS_MAX], ipv4, bits;
    if (!printable(text))
        return false;
    switch (form) {
    case CONFIG_FORM_PLAIN:
    case CONFIG_FORM_PATH:
    case CONFIG_FORM_SECRET: return true;
    case CONFIG_FORM_NAME:
        return *text != '\0' &&
               strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(text);
    case CONFIG_FORM_IPV4: return *text == '\0' || config_ipv4_parse(text, &ipv4, NULL) == 0;
    case CONFIG_FORM_PREFIX: return *text == '\0' || config_ipv4_parse(text, &ipv4, &bits) == 0;
    case CONFIG_FORM_URLS: return config_urls_parse(text, urls, CONFIG_NODES_MAX) >= 0;
    case CONFIG_FORM_LINKS: return config_links_parse(text, links, CONFIG_LINKS_MAX) >= 0;
    case CONFIG_FORM_CPUS: return config_cpus_parse(text, cpus, CONFIG_CPUS_MAX) >= 0;
    case CONFIG_FORM_HTTPS: return https_valid(text);
    case CONFIG_FORM_ENDPOINT: return endpoint_valid(text);
    }
    return false;
}

int config_value_set(struct config *config, const struct config_key *key, const char *text) {
    switch (key->kind) {
    case CONFIG_KIND_NUMBER: return number_from_text(config, key, text);
    case CONFIG_KIND_WORD: return word_from_text(config, key, text);
    case CONFIG_KIND_TEXT: break;
    }
    if (strlen(text) >= key->size_bytes || !form_valid(key->form, text))
        return MRN_ERR_INVALID;
    memset(field_of(config, key), 0, key->size_bytes);
    memcpy(field_of(config, key), text, strlen(text));
    return 0;
}

void config_value_default(struct config *config, const struct config_key *key) {
    if (key->kind == CONFIG_KIND_NUMBER) {
        number_set(config, key, key->default_number);
        return;
    }
    int error = config_value_set(config, key, key->default_text);
    assert(error == 0); /* the table's defaults are allowed values */
    (void)error;
}

const char *config_value_text(const struct config *config, const struct config_key *key,
                              char *text) {
    uint64_t number;
    switch (key->kind) {
    case CONFIG_KIND_NUMBER:
        number = number_of(config, key);
        if (number == UINT64_MAX)
            return strcpy(text, "none");
        snprintf(text, CONFIG_VALUE_TEXT_BYTES, "%" PRIu64, number);
        return text;
    case CONFIG_KIND_WORD:
        if (!word_at(key->words, (unsigned)number_of(config, key), text))
            strcpy(text, "?");
        return text;
    case CONFIG_KIND_TEXT: break;
    }
    const char *value = (const char *)config + key->offset_bytes;
    bool hide = key->form == CONFIG_FORM_SECRET && *value != '\0';
    snprintf(text, CONFIG_VALUE_TEXT_BYTES, "%s", hide ? "(set)" : value);
    return text;
}

static const char *form_words(enum config_form form) {
    switch (form) {
    case CONFIG_FORM_PLAIN: return "text";
    case CONFIG_FORM_NAME: return "letters a-z, digits and -";
    case CONFIG_FORM_PATH: return "a path";
    case CONFIG_FORM_SECRET: return "text";
    case CONFIG_FORM_IPV4: return "an IPv4 address A.B.C.D";
    case CONFIG_FORM_PREFIX: return "A.B.C.D or A.B.C.D/BITS";
    case CONFIG_FORM_URLS: return "up to 7 of /ip4/A.B.C.D/udp/PORT or /dns4/HOST/udp/PORT";
    case CONFIG_FORM_LINKS: return "up to 8 of A.B.C.D=SOCKET[:server]";
    case CONFIG_FORM_CPUS: return "up to 4 CPU numbers";
    case CONFIG_FORM_HTTPS: return "http://HOST:PORT or https://HOST:PORT, comma-separated";
    case CONFIG_FORM_ENDPOINT: return "ADDRESS:PORT, or off";
    }
    return "?";
}

const char *config_value_allowed(const struct config_key *key, char *text) {
    switch (key->kind) {
    case CONFIG_KIND_NUMBER:
        snprintf(text, CONFIG_VALUE_TEXT_BYTES, "%" PRIu64 " to %" PRIu64 "%s%s%s", key->least,
                 key->greatest, *key->unit != '\0' ? " " : "", key->unit,
                 key->default_number == UINT64_MAX ? ", or none" : "");
        return text;
    case CONFIG_KIND_WORD: snprintf(text, CONFIG_VALUE_TEXT_BYTES, "%s", key->words); return text;
    case CONFIG_KIND_TEXT: break;
    }
    snprintf(text, CONFIG_VALUE_TEXT_BYTES, "%s, at most %zu bytes", form_words(key->form),
             key->size_bytes - 1);
    return text;
}

const char *config_fabric_name(enum config_fabric fabric) {
    switch (fabric) {
    case CONFIG_FABRIC_UDP: return "udp";
    case CONFIG_FABRIC_AF_PACKET: return "af_packet";
    case CONFIG_FABRIC_AF_XDP: return "af_xdp";
    case CONFIG_FABRIC_MEMIF: return "memif";
    case CONFIG_FABRIC_VIRTIO_USER: return "virtio_user";
    case CONFIG_FABRIC_VHOST: return "vhost";
    case CONFIG_FABRIC_PCI: return "pci";
    }
    return "?";
}
