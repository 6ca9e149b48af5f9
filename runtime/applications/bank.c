/* bank.v1.Bank: accounts with balances, and their total.
 *
 * An account exists from its first deposit of more than 0; before that its balance is 0. The total
 * is kept beside the accounts: always the sum of all balances, so no balance can overflow before
 * it. */
#include "runtime/applications/applications.h"

#include "bank/v1/bank.pb-c.h"

enum { BANK_ACCOUNTS = 0, BANK_TOTALS = 1 };

static const struct mrn_table_spec TABLES[] = {
    [BANK_ACCOUNTS] = {.name = "accounts", .key_bytes = 8, .value_bytes = 8, .share = 1},
    [BANK_TOTALS] = {.name = "totals", .key_bytes = 8, .value_bytes = 8, .entries_max = 1},
};

static const uint64_t TOTAL_KEY = 0;

static uint64_t read_number(struct mrn_context *context, uint32_t table, uint64_t key) {
    const uint64_t *value = mrn_table_find(context, table, &key);
    return value == NULL ? 0 : *value;
}

static enum mrn_code respond_exhausted(struct mrn_context *context) {
    return mrn_fail(context, MRN_CODE_RESOURCE_EXHAUSTED, "no room for another account");
}

static enum mrn_code deposit(struct mrn_context *context, const void *request,
                             size_t request_bytes) {
    const Bank__V1__DepositRequest *message =
        mrn_decode(context, &bank__v1__deposit_request__descriptor, request, request_bytes);
    if (message == NULL)
        return mrn_fail_decode(context);
    Bank__V1__DepositResponse response = BANK__V1__DEPOSIT_RESPONSE__INIT;
    response.balance = read_number(context, BANK_ACCOUNTS, message->account);
    if (message->amount > 0) {
        uint64_t *balance = mrn_table_insert(context, BANK_ACCOUNTS, &message->account);
        uint64_t *total = mrn_table_insert(context, BANK_TOTALS, &TOTAL_KEY);
        if (balance == NULL || total == NULL)
            return respond_exhausted(context);
        if (__builtin_add_overflow(*total, message->amount, total))
            return mrn_fail(context, MRN_CODE_FAILED_PRECONDITION,
                            "the deposit would overflow the total of all accounts");
        *balance += message->amount; /* never more than the total */
        response.balance = *balance;
    }
    return mrn_respond(context, &response.base);
}

static enum mrn_code fail_overdraft(struct mrn_context *context) {
    return mrn_fail(context, MRN_CODE_FAILED_PRECONDITION, "the balance does not cover the amount");
}

static enum mrn_code withdraw(struct mrn_context *context, const void *request,
                              size_t request_bytes) {
    const Bank__V1__WithdrawRequest *message =
        mrn_decode(context, &bank__v1__withdraw_request__descriptor, request, request_bytes);
    if (message == NULL)
        return mrn_fail_decode(context);
    Bank__V1__WithdrawResponse response = BANK__V1__WITHDRAW_RESPONSE__INIT;
    response.balance = read_number(context, BANK_ACCOUNTS, message->account);
    if (message->amount > response.balance)
        return fail_overdraft(context);
    if (message->amount > 0) {
        uint64_t *balance = mrn_table_write(context, BANK_ACCOUNTS, &message->account);
        uint64_t *total = mrn_table_write(context, BANK_TOTALS, &TOTAL_KEY);
        if (balance == NULL || total == NULL)
            return respond_exhausted(context);
        *balance -= message->amount;
        *total -= message->amount;
        response.balance = *balance;
    }
    return mrn_respond(context, &response.base);
}

static enum mrn_code transfer(struct mrn_context *context, const void *request,
                              size_t request_bytes) {
    const Bank__V1__TransferRequest *message =
        mrn_decode(context, &bank__v1__transfer_request__descriptor, request, request_bytes);
    if (message == NULL)
        return mrn_fail_decode(context);
    Bank__V1__TransferResponse response = BANK__V1__TRANSFER_RESPONSE__INIT;
    uint64_t *from = mrn_table_write(context, BANK_ACCOUNTS, &message->from);
    response.from_balance = from == NULL ? 0 : *from;
    if (message->amount > response.from_balance)
        return fail_overdraft(context);
    if (message->from == message->to || message->amount == 0) {
        response.to_balance = read_number(context, BANK_ACCOUNTS, message->to);
        return mrn_respond(context, &response.base);
    }
    uint64_t *to = mrn_table_insert(context, BANK_ACCOUNTS, &message->to); /* moves no value */
    if (to == NULL)
        return respond_exhausted(context);
    *from -= message->amount;
    *to += message->amount; /* the sum of both is at most the total: no overflow */
    response.from_balance = *from;
    response.to_balance = *to;
    return mrn_respond(context, &response.base);
}

static enum mrn_code balance(struct mrn_context *context, const void *request,
                             size_t request_bytes) {
    const Bank__V1__BalanceRequest *message =
        mrn_decode(context, &bank__v1__balance_request__descriptor, request, request_bytes);
    if (message == NULL)
        return mrn_fail_decode(context);
    Bank__V1__BalanceResponse response = BANK__V1__BALANCE_RESPONSE__INIT;
    response.balance = read_number(context, BANK_ACCOUNTS, message->account);
    return mrn_respond(context, &response.base);
}

static enum mrn_code total(struct mrn_context *context, const void *request, size_t request_bytes) {
    if (mrn_decode(context, &bank__v1__total_request__descriptor, request, request_bytes) == NULL)
        return mrn_fail_decode(context);
    Bank__V1__TotalResponse response = BANK__V1__TOTAL_RESPONSE__INIT;
    response.total = read_number(context, BANK_TOTALS, TOTAL_KEY);
    return mrn_respond(context, &response.base);
}

static const struct mrn_method METHODS[] = {{"Deposit", deposit},
                                            {"Withdraw", withdraw},
                                            {"Transfer", transfer},
                                            {"Balance", balance},
                                            {"Total", total}};

static const struct mrn_service SERVICES[] = {
    {.descriptor = &bank__v1__bank__descriptor, .methods = METHODS, .method_count = 5}};

const struct mrn_application bank_application = {.name = "bank",
                                                 .version = 1,
                                                 .services = SERVICES,
                                                 .service_count = 1,
                                                 .tables = TABLES,
                                                 .table_count = 2};
