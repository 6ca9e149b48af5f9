#include "dataplane/net/address.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include <maroon/error.h>

int net_ipv4_parse(const char *text, uint32_t *ret_ipv4) {
    struct in_addr address;
    if (inet_pton(AF_INET, text, &address) != 1)
        return MRN_ERR_MALFORMED;
    *ret_ipv4 = ntohl(address.s_addr);
    return 0;
}

/* Decimal digits only, up to `max`. */
static int parse_number(const char *text, uint32_t max, uint32_t *ret_value) {
    uint32_t value = 0;
    if (*text == 0)
        return MRN_ERR_MALFORMED;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return MRN_ERR_MALFORMED;
        value = value * 10 + (uint32_t)(*text - '0');
        if (value > max)
            return MRN_ERR_MALFORMED;
    }
    *ret_value = value;
    return 0;
}

/* Splits `text` at the last `mark` into an address and what follows (NULL: no mark). */
static int split(const char *text, char mark, uint32_t *ret_ipv4, const char **ret_rest) {
    char head[INET_ADDRSTRLEN];
    const char *at = strrchr(text, mark);
    size_t length_bytes = at ? (size_t)(at - text) : strlen(text);
    if (length_bytes >= sizeof(head))
        return MRN_ERR_MALFORMED;
    memcpy(head, text, length_bytes);
    head[length_bytes] = 0;
    int error = net_ipv4_parse(head, ret_ipv4);
    if (error == 0)
        *ret_rest = at ? at + 1 : NULL;
    return error;
}

int net_ipv4_prefix_parse(const char *text, uint32_t *ret_ipv4, uint8_t *ret_prefix_bits) {
    uint32_t ipv4, bits = 32;
    const char *rest;
    if (split(text, '/', &ipv4, &rest) || (rest && parse_number(rest, 32, &bits)))
        return MRN_ERR_MALFORMED;
    *ret_ipv4 = ipv4;
    *ret_prefix_bits = (uint8_t)bits;
    return 0;
}

int net_address_parse(const char *text, struct net_address *ret_address) {
    uint32_t ipv4, port;
    const char *rest;
    if (split(text, ':', &ipv4, &rest) || !rest || parse_number(rest, 65535, &port) || port == 0)
        return MRN_ERR_MALFORMED;
    *ret_address = (struct net_address){.ipv4 = ipv4, .port = (uint16_t)port};
    return 0;
}

const char *net_address_format(struct net_address address, char *text) {
    snprintf(text, NET_ADDRESS_TEXT_BYTES, "%u.%u.%u.%u:%u", address.ipv4 >> 24,
             address.ipv4 >> 16 & 255, address.ipv4 >> 8 & 255, address.ipv4 & 255,
             (unsigned)address.port);
    return text;
}
