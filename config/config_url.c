#include "config/config_internal.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <maroon/error.h>

int config_number_parse(const char *text, uint64_t *ret_number) {
    uint64_t number = 0;
    if (*text == '\0')
        return MRN_ERR_INVALID;
    for (const char *c = text; *c != '\0'; c++) {
        if (!isdigit((unsigned char)*c))
            return MRN_ERR_INVALID;
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(*c - '0'), &number))
            return MRN_ERR_INVALID;
    }
    *ret_number = number;
    return 0;
}

int config_list_next(const char **cursor, char *entry, size_t room) {
    const char *at = *cursor;
    if (*at == '\0')
        return 0;
    size_t length = strcspn(at, ",");
    if (length == 0 || length >= room)
        return MRN_ERR_INVALID;
    memcpy(entry, at, length);
    entry[length] = '\0';
    at += length;
    if (*at == ',' && *++at == '\0')
        return MRN_ERR_INVALID; /* a comma at the end */
    *cursor = at;
    return 1;
}

int config_ipv4_parse(const char *text, uint32_t *ret_ipv4, uint32_t *ret_prefix_bits) {
    char host[32];
    uint64_t bits = 24;
    size_t length = strcspn(text, "/");
    if (length >= sizeof host)
        return MRN_ERR_INVALID;
    memcpy(host, text, length);
    host[length] = '\0';
    if (text[length] == '/' &&
        (ret_prefix_bits == NULL || config_number_parse(text + length + 1, &bits) != 0 ||
         bits < 1 || bits > 32))
        return MRN_ERR_INVALID;
    struct in_addr address;
    if (inet_pton(AF_INET, host, &address) != 1)
        return MRN_ERR_INVALID;
    *ret_ipv4 = ntohl(address.s_addr);
    if (ret_prefix_bits != NULL)
        *ret_prefix_bits = (uint32_t)bits;
    return 0;
}

static bool host_name_valid(const char *name) {
    if (*name == '\0' || *name == '-' || *name == '.')
        return false;
    for (; *name != '\0'; name++)
        if (!isalnum((unsigned char)*name) && *name != '-' && *name != '.' && *name != '_')
            return false;
    return true;
}

int config_url_parse(const char *text, struct config_url *ret_url) {
    struct config_url url = {0};
    bool is_name = strncmp(text, "/dns4/", 6) == 0;
    if (!is_name && strncmp(text, "/ip4/", 5) != 0)
        return MRN_ERR_INVALID;
    const char *host = text + (is_name ? 6 : 5);
    size_t length = strcspn(host, "/");
    if (length == 0 || length >= sizeof url.host)
        return MRN_ERR_INVALID;
    memcpy(url.host, host, length);
    const char *rest = host + length;
    if (strncmp(rest, "/udp/", 5) != 0 && strncmp(rest, "/tcp/", 5) != 0)
        return MRN_ERR_INVALID;
    uint64_t port;
    if (config_number_parse(rest + 5, &port) != 0 || port < 1 || port > 65535)
        return MRN_ERR_INVALID;
    url.port = (uint16_t)port;
    if (is_name ? !host_name_valid(url.host)
                : (config_ipv4_parse(url.host, &url.ipv4, NULL) != 0 || url.ipv4 == 0))
        return MRN_ERR_INVALID;
    *ret_url = url;
    return 0;
}

int config_url_resolve(struct config_url *url) {
    if (url->ipv4 != 0)
        return 0;
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_DGRAM};
    struct addrinfo *found;
    if (getaddrinfo(url->host, NULL, &hints, &found) != 0)
        return MRN_ERR_UNAVAILABLE;
    struct sockaddr_in address;
    memcpy(&address, found->ai_addr, sizeof address);
    freeaddrinfo(found);
    url->ipv4 = ntohl(address.sin_addr.s_addr);
    return url->ipv4 != 0 ? 0 : MRN_ERR_UNAVAILABLE;
}

int config_urls_parse(const char *text, struct config_url *ret_urls, uint32_t max) {
    char entry[128];
    uint32_t count = 0;
    int more;
    while ((more = config_list_next(&text, entry, sizeof entry)) == 1) {
        if (count == max || config_url_parse(entry, &ret_urls[count]) != 0)
            return MRN_ERR_INVALID;
        count++;
    }
    return more < 0 ? more : (int)count;
}

int config_links_parse(const char *text, struct config_link *ret_links, uint32_t max) {
    char entry[192];
    uint32_t count = 0;
    int more;
    while ((more = config_list_next(&text, entry, sizeof entry)) == 1) {
        struct config_link link = {0};
        char *device = strchr(entry, '=');
        if (count == max || device == NULL)
            return MRN_ERR_INVALID;
        *device++ = '\0';
        size_t length = strlen(device);
        if (length > 7 && strcmp(device + length - 7, ":server") == 0) {
            link.server = true;
            length -= 7;
        }
        if (length == 0 || length >= sizeof link.device ||
            config_ipv4_parse(entry, &link.peer_ipv4, NULL) != 0)
            return MRN_ERR_INVALID;
        memcpy(link.device, device, length);
        ret_links[count++] = link;
    }
    return more < 0 ? more : (int)count;
}

int config_cpus_parse(const char *text, uint32_t *ret_cpus, uint32_t max) {
    char entry[16];
    uint32_t count = 0;
    int more;
    while ((more = config_list_next(&text, entry, sizeof entry)) == 1) {
        uint64_t cpu;
        if (count == max || config_number_parse(entry, &cpu) != 0 || cpu > 1023)
            return MRN_ERR_INVALID;
        ret_cpus[count++] = (uint32_t)cpu;
    }
    return more < 0 ? more : (int)count;
}
