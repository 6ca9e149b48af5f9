/* mutant: bugs planted on purpose, to see whether the simulator's checkers find them.
 *
 * `if (MUTANT(name))` stands where the right code decides; the names are those of mutants.def. In
 * every program but tests/sim's sim-mutant MUTANT is the constant 0: no symbol, no branch. There
 * (MAROON_MUTANTS) one global chooses a single mutant before the run; it is written once, by main,
 * so any thread may read it. No errors. */
#ifndef MAROON_MUTANT_H
#define MAROON_MUTANT_H

#ifdef MAROON_MUTANTS
enum replica_mutant {
    REPLICA_MUTANT_NONE = 0,
#    define MUTANT_DEF(name, sentence) REPLICA_MUTANT_##name,
#    include "dataplane/replica/mutants.def"
#    undef MUTANT_DEF
    REPLICA_MUTANT_COUNT
};
extern enum replica_mutant replica_mutant; /* defined by the program */
#    define MUTANT(name) (replica_mutant == REPLICA_MUTANT_##name)
#else
#    define MUTANT(name) 0
#endif

#endif
