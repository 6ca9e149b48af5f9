#include "dataplane/net/telemetry.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include <maroon/error.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const struct net_telemetry_command *table;
static uint32_t table_count;
static const void *shown; /* all under `lock`; NULL: nothing to show */

static int on_command(const char *command, const char *parameters, struct rte_tel_data *out) {
    (void)parameters;
    int result = -1;
    if (rte_tel_data_start_dict(out))
        return -1;
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; shown && i < table_count; i++)
        if (strcmp(command, table[i].command) == 0)
            result = table[i].fill(shown, out) ? -1 : 0;
    pthread_mutex_unlock(&lock);
    return result;
}

int net_telemetry_start(const struct net_telemetry_command *commands, uint32_t count,
                        const void *what) {
    pthread_mutex_lock(&lock);
    table = commands;
    table_count = count;
    shown = what;
    pthread_mutex_unlock(&lock);
    for (uint32_t i = 0; i < count; i++) {
        int error = rte_telemetry_register_cmd(commands[i].command, on_command, commands[i].help);
        if (error)
            return error == -ENOMEM ? MRN_ERR_NO_MEMORY : MRN_ERR_INVALID;
    }
    return 0;
}

void net_telemetry_stop(void) {
    pthread_mutex_lock(&lock);
    shown = NULL;
    pthread_mutex_unlock(&lock);
}
