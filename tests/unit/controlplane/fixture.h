/* fixture: a real etcd on free loopback ports, and servers that misbehave; for the tests of the
 * control plane. What was started ends with the test's process, also when that crashes. */
#ifndef MAROON_TEST_FIXTURE_H
#define MAROON_TEST_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct fixture_etcd {
    pid_t pid;
    int port, peer_port;
    char endpoint[64]; /* http://127.0.0.1:port */
    char dir[64];
    bool paused;
};

/* Starts one member and waits until it answers. `argument`: one more, or NULL. Returns false, with
 * a word on stderr, when there is no etcd here. */
bool fixture_etcd_start(struct fixture_etcd *etcd, const char *argument);
/* The same with a cluster of `count` members, at most 3. */
bool fixture_etcd_start_members(struct fixture_etcd *members, int count, const char *argument);
/* One member that speaks TLS to clients, with what ETCD_CERT_FILE, ... of the environment name.
 * Returns once it listens. */
bool fixture_etcd_start_tls(struct fixture_etcd *etcd);
/* Kills it and removes its directory. */
void fixture_etcd_stop(struct fixture_etcd *etcd);
void fixture_etcd_pause(struct fixture_etcd *etcd, bool paused);

/* A TCP proxy in a thread of its own. */
struct fixture_proxy;
struct fixture_proxy *fixture_proxy_start(int to_port);
void fixture_proxy_stop(struct fixture_proxy *proxy);
int fixture_proxy_port(const struct fixture_proxy *proxy);
/* Of the connections that bring an answer, this share is cut before the answer passes. */
void fixture_proxy_cut_percent(struct fixture_proxy *proxy, int percent);
void fixture_proxy_delay_ms(struct fixture_proxy *proxy, int delay_ms);
/* From now on goes elsewhere; cuts what there is. */
void fixture_proxy_to(struct fixture_proxy *proxy, int port);
/* Refuses new connections and cuts old ones. */
void fixture_proxy_down(struct fixture_proxy *proxy, bool down);
uint64_t fixture_proxy_cuts(const struct fixture_proxy *proxy);

/* A server that answers every request with the same bytes, then closes; or, when `repeat` is set,
 * sends them again and again until the client goes away. */
struct fixture_server;
struct fixture_server *fixture_server_start(const char *bytes, size_t count, bool repeat);
/* Connections from now on get so many bytes at a time; 0: all at once. */
void fixture_server_piece(struct fixture_server *server, size_t bytes);
void fixture_server_stop(struct fixture_server *server);
int fixture_server_port(const struct fixture_server *server);

/* For what comes for certain, on a machine that is slow and busy. */
#define PATIENCE_MS 60000

int fixture_free_port(void);
uint64_t fixture_now_ms(void);
void fixture_make_dir(char *ret_dir, size_t room);
void fixture_remove_dir(const char *dir);

#endif
