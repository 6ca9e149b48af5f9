/* maroonctl: the operator's tool. Asks nodes over their admin HTTP. */
#include <curl/curl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/ctl/ctl.h"

static const char usage[] =
    "usage: maroonctl [--admin HOST:PORT[,HOST:PORT...]] [--json] COMMAND\n"
    "\n"
    "  status              role, term, positions and hashes of each node\n"
    "  leader              the ring, delays, and who would try next\n"
    "  leader --handover   ask the leader to hand over\n"
    "  ranges              ranges in use, with their counters\n"
    "  epochs              the newest published epochs; --follow goes on with every new one\n"
    "  top                 rates and alarms of each node, every second\n"
    "  term-base --raise   after etcd was restored from an older snapshot (docs/operations.md)\n"
    "  verify DIR          reads the journal in DIR and says whether it is sound\n"
    "  dump now            asks the node to dump\n"
    "  dump list           the dumps in a store, oldest first\n"
    "  dump verify         reads the newest dump to the last byte, or that of --epoch N or "
    "before;\n"
    "                      --all: each dump that there is\n"
    "  dump fetch FILE     the same, and writes its snapshot to FILE\n"
    "  dump cat            epoch --epoch N (default: the newest), or --from M to N, with its\n"
    "                      transactions and answers, and the applications' state after it\n"
    "  dump prune --keep N removes all dumps but the N newest, and what none of them needs\n"
    "                      (with --etcd-endpoints also the one that dump/latest names stays)\n"
    "  bootstrap DATA-DIR  fetches the newest dump for a node that has nothing; goes on after a "
    "kill\n"
    "  restore DATA-DIR... a new cluster --cluster NAME out of the store, a directory for each "
    "node:\n"
    "                      the newest state, or that of --to-epoch N exactly; says what is lost.\n"
    "                      With --etcd-endpoints; --quorum K; --replace ends a cluster of that "
    "name;\n"
    "                      --cluster-id HEX if the store holds several (docs/deploy.md)\n"
    "                      (with --store-url s3://BUCKET/PREFIX or dir:/PATH and the other store "
    "keys of\n"
    "                      docs/configuration.md, and --dump-key-file FILE when dumps are sealed)\n"
    "\n"
    "  --admin   admin addresses of the nodes; default: $MAROON_ADMIN, else 127.0.0.1:9100\n"
    "  --json    what the nodes say, as JSON\n"
    "  --count   lines of epochs (with --follow: answers that brought some), rounds of top\n"
    "\n"
    "Ends with 0, or 1 when a node does not answer or states differ, or 2 for a wrong command.\n";

static int split_nodes(struct ctl_options *options, char *list) {
    options->node_count = 0;
    for (char *node = strtok(list, ","); node; node = strtok(NULL, ",")) {
        if (options->node_count == CTL_NODES_MAX)
            return -1;
        options->nodes[options->node_count++] = node;
    }
    return options->node_count > 0 ? 0 : -1;
}

static int run(const char *command, const char *argument, const struct ctl_options *options) {
    if (strcmp(command, "verify") == 0 && argument)
        return ctl_verify(options, argument);
    if (argument || strcmp(command, "verify") == 0) {
        fprintf(stderr, "maroonctl: %s: wrong number of words\n%s", command, usage);
        return 2;
    }
    if (strcmp(command, "status") == 0)
        return ctl_status(options);
    if (strcmp(command, "leader") == 0)
        return ctl_leader(options);
    if (strcmp(command, "epochs") == 0)
        return ctl_epochs(options);
    if (strcmp(command, "top") == 0)
        return ctl_top(options);
    if (strcmp(command, "term-base") == 0)
        return ctl_term_base(options);
    if (strcmp(command, "ranges") == 0)
        return ctl_ranges(options);
    fprintf(stderr, "maroonctl: no command \"%s\"\n%s", command, usage);
    return 2;
}

int main(int argc, char **argv) {
    static const struct option long_options[] = {
        {"admin", required_argument, NULL, 'a'}, {"json", no_argument, NULL, 'j'},
        {"handover", no_argument, NULL, 'o'},    {"follow", no_argument, NULL, 'f'},
        {"raise", no_argument, NULL, 'r'},       {"count", required_argument, NULL, 'n'},
        {"help", no_argument, NULL, 'h'},        {NULL, 0, NULL, 0},
    };
    struct ctl_options options = {0};
    if (argc > 1 && (strcmp(argv[1], "dump") == 0 || strcmp(argv[1], "bootstrap") == 0 ||
                     strcmp(argv[1], "restore") == 0)) {
        curl_global_init(CURL_GLOBAL_DEFAULT);
        return ctl_dump(argc, argv);
    }
    const char *from_environment = getenv("MAROON_ADMIN");
    const char *list = from_environment ? from_environment : "127.0.0.1:9100";
    int option;
    while ((option = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
        switch (option) {
        case 'a': list = optarg; break;
        case 'j': options.json = true; break;
        case 'o': options.handover = true; break;
        case 'f': options.follow = true; break;
        case 'r': options.raise = true; break;
        case 'n': options.count = strtoull(optarg, NULL, 10); break;
        case 'h': fputs(usage, stdout); return 0;
        default: fputs(usage, stderr); return 2; /* not our enum: getopt */
        }
    }
    char *nodes = strdup(list);
    if (!nodes || split_nodes(&options, nodes) || optind >= argc || optind + 2 < argc) {
        fputs(usage, stderr);
        free(nodes);
        return 2;
    }
    curl_global_init(CURL_GLOBAL_DEFAULT);
    int status = run(argv[optind], argv[optind + 1], &options);
    curl_global_cleanup();
    free(nodes);
    return status;
}
