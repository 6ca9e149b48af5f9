/* Links over sockets (memif, virtio-user with vhost): the serving side makes the socket, the other
 * can only be opened while it is there, and a process that was killed leaves its file behind. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "dataplane/net/internal.h"
#include <maroon/error.h>
#include <rte_ethdev.h>

#define WAIT_MS 20000
#define STEP_MS 50
#define MEND_US 100000
#define CONNECT_US 500000 /* more than a connection takes, also on busy cores */

/* Does somebody listen there? Asked by connecting, since sockets of other namespaces are in no
 * list. memif's are SEQPACKET and refuse the type, but only while they are alive: so its server
 * never sees us, and it would not survive the end of such a connection (DPDK 22.11). */
static bool listens(const char *path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof a.sun_path)
        return true; /* the driver will refuse it, and say so */
    memcpy(a.sun_path, path, length + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool alive =
        fd >= 0 && (connect(fd, (struct sockaddr *)&a, sizeof a) == 0 || errno == EPROTOTYPE);
    if (fd >= 0)
        close(fd);
    return alive;
}

static bool is_socket(const char *path) {
    struct stat s;
    return lstat(path, &s) == 0 && S_ISSOCK(s.st_mode);
}

static void sleep_ms(uint32_t ms) {
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

int net_links_prepare(const struct net_config *c, char *ret_error) {
    uint32_t waited_ms = 0;
    if (c->fabric != NET_FABRIC_MEMIF && c->fabric != NET_FABRIC_VIRTIO_USER &&
        c->fabric != NET_FABRIC_VHOST)
        return 0;
    for (uint32_t i = 0; i < c->port_count; i++) {
        const struct net_port_config *p = &c->ports[i];
        if (p->server || c->fabric == NET_FABRIC_VHOST) {
            if (is_socket(p->device) && !listens(p->device))
                (void)unlink(p->device); /* or the driver says why it cannot bind */
            continue;
        }
        for (; !is_socket(p->device) || !listens(p->device); waited_ms += STEP_MS) {
            if (waited_ms >= WAIT_MS) {
                net_text(ret_error,
                         "%s: nobody has served this link for %u s: start its other side",
                         p->device, WAIT_MS / 1000);
                return MRN_ERR_UNAVAILABLE;
            }
            sleep_ms(STEP_MS);
        }
    }
    return 0;
}

/* The driver of memif connects when its port is started, and never again by itself (DPDK 22.11). A
 * link that is down may be about to come up: its other thread connects it step by step, and dies of
 * a port that is stopped meanwhile. So it is left alone until it has been down for longer than
 * connecting takes. */
void net_links_mend(struct net *net) {
    const struct net_config *c = &net->config;
    if (c->fabric != NET_FABRIC_MEMIF || net->now_us < net->mend_us)
        return;
    net->mend_us = net->now_us + MEND_US;
    for (uint32_t i = 0; i < net->port_count; i++) {
        const struct net_port_config *p = &c->ports[i];
        struct rte_eth_link link;
        uint64_t *since_us = &net->ports[i].down_since_us;
        if (p->server || rte_eth_link_get_nowait(net->ports[i].id, &link) || link.link_status) {
            *since_us = 0;
            continue;
        }
        if (!*since_us)
            *since_us = net->now_us;
        if (net->now_us - *since_us < CONNECT_US || !is_socket(p->device) || !listens(p->device))
            continue;
        *since_us = net->now_us;
        (void)rte_eth_dev_stop(net->ports[i].id);
        (void)rte_eth_dev_start(net->ports[i].id); /* fails when the peer has just gone again */
    }
}
