/* A program outside the tree, built against what was installed: deposits, and prints the balance.
 */
#include <maroon/error.h>
#include <maroon/gateway.h>
#include <maroon/net.h>
#include <semaphore.h>
#include <stdio.h>

static sem_t answered;
static int status = 1;

/* bank.v1.DepositResponse: field 1 is the balance, a varint. */
static void on_answer(void *user, const struct mrn_gateway_answer *answer) {
    (void)user;
    unsigned long balance = 0;
    for (size_t i = 1; i < answer->length_bytes; i++)
        balance |= (unsigned long)(answer->bytes[i] & 127) << 7 * (i - 1);
    printf("error=%d code=%u balance=%lu\n", answer->error, answer->code, balance);
    status = answer->error || answer->code;
    sem_post(&answered);
}

int main(int argc, char **argv) {
    const char *settings[] = {argc > 1 ? argv[1] : "node-urls", NULL};
    static const unsigned char deposit[] = {0x08, 7, 0x10, 100}; /* account 7, amount 100 */
    const struct mrn_gateway_request request = {.service = "bank.v1.Bank",
                                                .method = "Deposit",
                                                .bytes = deposit,
                                                .length_bytes = sizeof deposit};
    struct mrn_gateway_config config;
    struct mrn_gateway *gateway;
    struct net *net;
    char error[MRN_NET_TEXT_BYTES];
    if (mrn_net_open(settings, &config, &net, error)) {
        printf("%s\n", error);
        return 2;
    }
    sem_init(&answered, 0, 0);
    int code = mrn_gateway_open(&config, net, &gateway);
    if (!code)
        code = mrn_gateway_submit(gateway, &request, on_answer, NULL);
    if (code) {
        printf("%s\n", mrn_error_text(code));
        return 2;
    }
    sem_wait(&answered);
    mrn_gateway_close(gateway);
    mrn_net_close(net);
    return status;
}
