#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dataplane/net/internal.h"
#include <maroon/error.h>

#define SOCKET_BUFFER_BYTES (4 << 20)

static struct sockaddr_in kernel_address(uint32_t ipv4, uint16_t port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    a.sin_addr.s_addr = htonl(ipv4);
    return a;
}

int net_udp_open(struct net_endpoint *e, char *ret_error) {
    struct sockaddr_in a = kernel_address(e->net->config.ipv4, e->config.udp_port);
    int size = SOCKET_BUFFER_BYTES;
    socklen_t length = sizeof a;
    e->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (e->fd < 0 || bind(e->fd, (struct sockaddr *)&a, sizeof a)) {
        int error = errno;
        net_text(ret_error, "UDP port %u cannot be used: %s", e->config.udp_port, strerror(error));
        return error == EADDRINUSE ? MRN_ERR_EXISTS : error == EACCES ? MRN_ERR_DENIED : MRN_ERR_IO;
    }
    (void)setsockopt(e->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    (void)setsockopt(e->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (getsockname(e->fd, (struct sockaddr *)&a, &length) == 0)
        e->config.udp_port = ntohs(a.sin_port);
    return 0;
}

uint32_t net_udp_rx(struct net_endpoint *e, struct net_packet *packets, uint32_t max_count) {
    struct mmsghdr messages[NET_BURST_COUNT];
    struct iovec vectors[NET_BURST_COUNT];
    struct sockaddr_in sources[NET_BURST_COUNT];
    if (e->spare_count < NET_BURST_COUNT &&
        rte_pktmbuf_alloc_bulk(e->net->pool, e->spare + e->spare_count,
                               NET_BURST_COUNT - e->spare_count) == 0)
        e->spare_count = NET_BURST_COUNT;
    uint32_t want = max_count < e->spare_count ? max_count : e->spare_count;
    if (!want) {
        e->counters.no_buffer++;
        return 0;
    }
    memset(messages, 0, want * sizeof messages[0]);
    for (uint32_t i = 0; i < want; i++) {
        vectors[i] =
            (struct iovec){rte_pktmbuf_mtod(e->spare[i], void *), NET_PAYLOAD_MAX_BYTES + 1};
        messages[i].msg_hdr = (struct msghdr){.msg_name = &sources[i],
                                              .msg_namelen = sizeof sources[i],
                                              .msg_iov = &vectors[i],
                                              .msg_iovlen = 1};
    }
    int got = recvmmsg(e->fd, messages, want, MSG_DONTWAIT, NULL);
    if (got <= 0)
        return 0; /* nothing, or an ICMP error of an earlier send */
    uint32_t count = 0, used = (uint32_t)got;
    for (uint32_t i = 0; i < used; i++) {
        uint32_t length = messages[i].msg_len;
        if (length > NET_PAYLOAD_MAX_BYTES) {
            e->counters.drops[WIRE_DROP_FRAME_LENGTH]++;
            rte_pktmbuf_free(e->spare[i]);
            continue;
        }
        packets[count++] = (struct net_packet){
            .mbuf = e->spare[i],
            .bytes = rte_pktmbuf_mtod(e->spare[i], uint8_t *),
            .length_bytes = length,
            .address = {.ipv4 = ntohl(sources[i].sin_addr.s_addr),
                        .port = ntohs(sources[i].sin_port)},
        };
    }
    e->spare_count -= used;
    memmove(e->spare, e->spare + used, e->spare_count * sizeof e->spare[0]);
    return count;
}

void net_udp_flush(struct net_endpoint *e) {
    struct mmsghdr messages[NET_BURST_COUNT];
    struct iovec vectors[NET_BURST_COUNT];
    struct sockaddr_in to[NET_BURST_COUNT];
    memset(messages, 0, e->tx_count * sizeof messages[0]);
    for (uint32_t i = 0; i < e->tx_count; i++) {
        to[i] = kernel_address(e->tx[i].address.ipv4, e->tx[i].address.port);
        vectors[i] = (struct iovec){e->tx[i].bytes, e->tx[i].length_bytes};
        messages[i].msg_hdr = (struct msghdr){.msg_name = &to[i],
                                              .msg_namelen = sizeof to[i],
                                              .msg_iov = &vectors[i],
                                              .msg_iovlen = 1};
    }
    uint32_t done = 0;
    while (done < e->tx_count) {
        int sent = sendmmsg(e->fd, messages + done, e->tx_count - done, MSG_DONTWAIT);
        if (sent > 0) {
            for (int i = 0; i < sent; i++)
                e->counters.tx_bytes += e->tx[done + (uint32_t)i].length_bytes;
            e->counters.tx_packets += (uint32_t)sent;
            done += (uint32_t)sent;
            continue;
        }
        if (errno == ECONNREFUSED)
            continue; /* an ICMP error of an earlier datagram, told once */
        e->counters.tx_full += errno == EAGAIN || errno == ENOBUFS;
        e->counters.drops[WIRE_DROP_UNREACHABLE] += errno != EAGAIN && errno != ENOBUFS;
        done++; /* the sender repeats what matters */
    }
    net_packets_free(e->tx, e->tx_count);
}

/* ---- the kernel socket that guards an ethdev endpoint's port: no ICMP errors, and something to
 * poll ---- */

/* `wakes`: the socket gets the first bytes of each datagram, so that poll() on it wakes; else none.
 */
void net_guard_filter(const struct net_endpoint *e, bool wakes) {
    struct sock_filter code = {BPF_RET | BPF_K, 0, 0, wakes ? 9 : 0};
    struct sock_fprog program = {1, &code};
    (void)setsockopt(e->fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

int net_guard_open(struct net_endpoint *e) {
    struct sockaddr_in a = kernel_address(INADDR_ANY, e->config.udp_port);
    e->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (e->fd < 0)
        return MRN_ERR_IO;
    net_guard_filter(e, false);
    if (bind(e->fd, (struct sockaddr *)&a, sizeof a)) {
        close(e->fd);
        e->fd = -1;
        return MRN_ERR_EXISTS;
    }
    return 0;
}

void net_guard_drain(const struct net_endpoint *e) {
    char bytes[16];
    for (int i = 0; i < 64 && recv(e->fd, bytes, sizeof bytes, MSG_DONTWAIT) >= 0; i++)
        ;
}
