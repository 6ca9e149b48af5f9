/* The bank of a node that computes something else: its Deposit to one account adds a unit too much.
 * Linked into a node of its own, for tests only; everything else is the real code. */
#define bank_application honest_bank
#include "runtime/applications/bank.c" /* its handlers are not public */
#undef bank_application

#define WRONG_ACCOUNT 13

extern const struct mrn_application bank_application;

static enum mrn_code wrong_deposit(struct mrn_context *context, const void *request,
                                   size_t request_bytes) {
    const Bank__V1__DepositRequest *message =
        mrn_decode(context, &bank__v1__deposit_request__descriptor, request, request_bytes);
    enum mrn_code code = deposit(context, request, request_bytes);
    if (code != MRN_CODE_OK || message == NULL || message->account != WRONG_ACCOUNT)
        return code;
    uint64_t *balance = mrn_table_write(context, BANK_ACCOUNTS, &message->account);
    if (balance == NULL)
        return code;
    Bank__V1__DepositResponse response = BANK__V1__DEPOSIT_RESPONSE__INIT;
    response.balance = ++*balance;
    return mrn_respond(context, &response.base);
}

static const struct mrn_method WRONG_METHODS[] = {{"Deposit", wrong_deposit},
                                                  {"Withdraw", withdraw},
                                                  {"Transfer", transfer},
                                                  {"Balance", balance},
                                                  {"Total", total}};

static const struct mrn_service WRONG_SERVICES[] = {
    {.descriptor = &bank__v1__bank__descriptor, .methods = WRONG_METHODS, .method_count = 5}};

const struct mrn_application bank_application = {.name = "bank",
                                                 .version = 1,
                                                 .services = WRONG_SERVICES,
                                                 .service_count = 1,
                                                 .tables = TABLES,
                                                 .table_count = 2};
