#include <stdio.h>
#include <string.h>

#include "controlplane/ctl/ctl_dump.h"
#include "controlplane/etcd.h"
#include "controlplane/from_config.h"
#include "controlplane/log.h"
#include "maroon/error.h"

#define PATIENCE_NS UINT64_C(5000000000)

struct reading {
    bool done;
    int error;
    char *text;
    size_t room;
};

static void on_read(void *context, const struct etcd_answer *answer) {
    struct reading *reading = context;
    reading->done = true;
    reading->error = answer->error                    ? MRN_ERR_UNAVAILABLE
                     : !answer->responses[0].kv_count ? MRN_ERR_NOT_FOUND
                     : answer->responses[0].kvs[0].value_bytes >= reading->room ? MRN_ERR_TOO_LARGE
                                                                                : 0;
    if (!reading->error)
        snprintf(reading->text, reading->room, "%s", answer->responses[0].kvs[0].value);
}

int ctl_etcd_pointer(const struct config *config, char *ret_text, size_t room) {
    struct reading reading = {.text = ret_text, .room = room};
    char key[ETCD_KEY_MAX + 1];
    struct etcd_config to;
    if (!etcd_from_config(config, &to))
        return MRN_ERR_NOT_FOUND;
    struct loop *loop = loop_create();
    struct http_client *http = loop ? http_client_create(loop) : NULL;
    struct etcd *etcd = http ? etcd_create(loop, http, &to) : NULL;
    int error = etcd ? MRN_ERR_UNAVAILABLE : MRN_ERR_NO_MEMORY;
    uint64_t until_ns = ctl_now_ns() + PATIENCE_NS;
    snprintf(key, sizeof key, "/maroon/%s/dump/latest", config->cluster);
    while (error == MRN_ERR_UNAVAILABLE && ctl_now_ns() < until_ns) { /* each member in turn */
        reading.done = false;
        if (etcd_range(etcd, key, NULL, 0, on_read, &reading))
            break;
        while (!reading.done)
            loop_run_once(loop, 50);
        error = reading.error;
    }
    etcd_destroy(etcd);
    http_client_destroy(http);
    loop_destroy(loop);
    return error;
}
