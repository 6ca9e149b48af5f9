/* net_address: an IPv4 address and a UDP port, both in host byte order (10.0.0.1 is 0x0a000001).
 *
 * Pure. Threads: any. */
#ifndef MAROON_NET_ADDRESS_H
#define MAROON_NET_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct net_address {
    uint32_t ipv4;
    uint16_t port;
    uint16_t reserved; /* 0 */
};

#define NET_ADDRESS_TEXT_BYTES 24 /* "255.255.255.255:65535" and its end */

static inline bool net_address_equal(struct net_address a, struct net_address b) {
    return a.ipv4 == b.ipv4 && a.port == b.port;
}

/* True for an address that one machine can have: not 0.0.0.0/8, multicast, reserved or broadcast.
 */
static inline bool net_ipv4_unicast(uint32_t ipv4) {
    return ipv4 >> 24 != 0 && ipv4 < UINT32_C(0xe0000000);
}

/* Reads "10.1.2.3". Returns 0, or MRN_ERR_MALFORMED. */
int net_ipv4_parse(const char *text, uint32_t *ret_ipv4);

/* Reads "10.1.2.3/24", or without "/24": then *ret_prefix_bits is 32. Same errors. */
int net_ipv4_prefix_parse(const char *text, uint32_t *ret_ipv4, uint8_t *ret_prefix_bits);

/* Reads "10.1.2.3:3000" (port 1..65535). Same errors. */
int net_address_parse(const char *text, struct net_address *ret_address);

/* Writes "10.1.2.3:3000" into `text` (NET_ADDRESS_TEXT_BYTES) and returns it. */
const char *net_address_format(struct net_address address, char *text);

#endif
