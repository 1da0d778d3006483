//! How large a model is: devices, stages, processes, and how often what may go wrong.

use wardring_api::GateFailure;

/// Minutes that pass at once: longer than a permit lives and a Lease lasts, and the unit of every
/// deadline of the model.
pub const TICK: u32 = 10;

/// How often each fault may strike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// A controller dies between two writes.
    pub crashes: u8,
    /// The Lease passes on while its holder stands still in the middle of a plan.
    pub depositions: u8,
    /// A write is under way for so long that its sender gives it up; it lands later.
    pub delays: u8,
    /// A person deletes a job.
    pub deletions: u8,
    /// A gateway stands still between its reads, its write and its answer.
    pub freezes: u8,
    /// Ten minutes pass although somebody could act.
    pub ticks: u8,
    /// An installation fails.
    pub failures: u8,
    /// A person puts an EmergencyStop in force, and lifts it some time later.
    pub stops: u8,
    /// A person begins a freeze, and ends it some time later.
    pub denials: u8,
    /// A provider answers a gate with a fail, with nothing, or not at all.
    pub doubts: u8,
    /// A person rejects what is asked, also after another one has approved it.
    pub rejections: u8,
    /// An approval is taken back before it is used.
    pub withdrawals: u8,
    /// The rollout's author approves it.
    pub own_words: u8,
    /// A person changes the rollout.
    pub edits: u8,
    /// People stop answering, for good.
    pub neglects: u8,
}

/// Which gates a stage has: one of each phase at most, all measured outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gates {
    /// One before.
    pub before: bool,
    /// One during, and what follows when it fails.
    pub during: Option<GateFailure>,
    /// One after.
    pub after: bool,
}

impl Gates {
    const NONE: Gates = Gates { before: false, during: None, after: false };
    /// One of each, and what fails is waited for.
    pub const ALL: Gates = Gates { before: true, during: Some(GateFailure::Hold), after: true };
}

/// A model to search.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// What it is called.
    pub name: &'static str,
    /// Stages.
    pub stages: u8,
    /// Devices of each stage.
    pub devices: u8,
    /// Controllers.
    pub leaders: u8,
    /// `maxConcurrency` of every stage.
    pub cap: u32,
    /// `retry.maxAttempts` of every stage.
    pub attempts: u32,
    /// `deviceDeadline`, in ticks; `startWithin` is one, or as long where the size is patient.
    pub deadline: u32,
    /// Whether an installation needs a restart, with its own permit.
    pub restarts: bool,
    /// The gates of every stage.
    pub gates: Gates,
    /// Whether devices may be worked on only while a window is open: the second ten minutes of every
    /// thirty.
    pub window: bool,
    /// Whether every stage opens by a person's approval only, and for how many ticks an asking holds.
    pub approval: Option<u32>,
    /// Deadlines are so long that no time lost is an excuse for a halt.
    pub patient: bool,
    /// What may go wrong.
    pub faults: Faults,
}

/// Nothing goes wrong.
const NONE: Faults = Faults {
    crashes: 0,
    depositions: 0,
    delays: 0,
    deletions: 0,
    freezes: 0,
    ticks: 0,
    failures: 0,
    stops: 0,
    denials: 0,
    doubts: 0,
    rejections: 0,
    withdrawals: 0,
    own_words: 0,
    edits: 0,
    neglects: 0,
};

impl Size {
    /// The smallest one that does anything: one controller, one stage of two devices, no faults.
    pub const CALM: Size = Size {
        name: "calm",
        stages: 1,
        devices: 2,
        leaders: 1,
        cap: 1,
        attempts: 1,
        deadline: 1,
        restarts: true,
        gates: Gates::NONE,
        window: false,
        approval: None,
        patient: false,
        faults: NONE,
    };

    /// Two controllers, one crash, two late writes, a person who deletes a job and a gateway that
    /// stands still, in every order.
    pub const LEADERS: Size = Size {
        name: "leaders",
        leaders: 2,
        restarts: false,
        faults: Faults { crashes: 1, delays: 2, deletions: 1, freezes: 1, ..NONE },
        ..Size::CALM
    };

    /// A leader that loses the Lease in the middle of a plan, while deadlines pass.
    pub const TAKE_OVERS: Size = Size {
        name: "take-overs",
        leaders: 2,
        faults: Faults { crashes: 1, depositions: 1, ticks: 1, ..NONE },
        ..Size::CALM
    };

    /// Deadlines that pass in the worst moment.
    pub const DEADLINES: Size = Size {
        name: "deadlines",
        restarts: false,
        faults: Faults { delays: 1, deletions: 1, freezes: 1, ticks: 1, ..NONE },
        ..Size::CALM
    };

    /// A failure that halts the rollout while another device is at work.
    pub const HALT: Size = Size {
        name: "halt",
        cap: 2,
        deadline: 2,
        faults: Faults { freezes: 1, ticks: 1, failures: 1, ..NONE },
        ..Size::CALM
    };

    /// Installations that fail and are tried again.
    pub const RETRIES: Size = Size {
        name: "retries",
        attempts: 2,
        faults: Faults { deletions: 1, freezes: 1, failures: 2, ..NONE },
        ..Size::CALM
    };

    /// Two stages of two devices.
    pub const STAGES: Size = Size {
        name: "stages",
        stages: 2,
        restarts: false,
        faults: Faults { crashes: 1, delays: 1, deletions: 1, ..NONE },
        ..Size::CALM
    };

    /// EmergencyStops that come at any moment and go some time later.
    pub const STOPS: Size = Size {
        name: "stops",
        deadline: 6,
        patient: true,
        faults: Faults { stops: 1, ticks: 1, freezes: 1, ..NONE },
        ..Size::CALM
    };

    /// A window that opens now and again, and a freeze that comes at any moment and goes some time
    /// later.
    pub const WINDOWS: Size = Size {
        name: "windows",
        deadline: 12,
        window: true,
        patient: true,
        faults: Faults { denials: 1, ticks: 1, ..NONE },
        ..Size::CALM
    };

    /// Two stages with a gate of each phase, whose provider fails, knows nothing, or does not answer.
    pub const GATES: Size = Size {
        name: "gates",
        stages: 2,
        devices: 1,
        deadline: 6,
        restarts: false,
        gates: Gates::ALL,
        patient: true,
        faults: Faults { doubts: 1, ..NONE },
        ..Size::CALM
    };

    /// One of them, whose leader dies and whose answers grow old.
    pub const OLD_ANSWERS: Size = Size {
        name: "old answers",
        stages: 1,
        leaders: 2,
        faults: Faults { crashes: 1, ticks: 1, doubts: 1, ..NONE },
        ..Size::GATES
    };

    /// A gate that fails while devices are at work, and halts.
    pub const GATE_HALTS: Size = Size {
        name: "a gate halts",
        restarts: false,
        cap: 2,
        deadline: 6,
        gates: Gates { during: Some(GateFailure::Halt), ..Gates::NONE },
        patient: true,
        faults: Faults { ticks: 1, doubts: 1, ..NONE },
        ..Size::CALM
    };

    /// A stage that opens by a person's approval only. People reject, take back, and change the rollout
    /// before and after.
    pub const SIGNED: Size = Size {
        name: "signed",
        deadline: 6,
        restarts: false,
        approval: Some(600),
        patient: true,
        faults: Faults { rejections: 1, withdrawals: 1, edits: 1, ..NONE },
        ..Size::CALM
    };

    /// Askings that expire, and people who stop answering.
    pub const UNANSWERED: Size = Size {
        name: "unanswered",
        faults: Faults { edits: 1, neglects: 1, ticks: 1, ..NONE },
        ..Size::SIGNED
    };

    /// Askings that hold for no longer than what passes at once.
    pub const EXPIRING: Size = Size {
        name: "expiring",
        devices: 1,
        approval: Some(1),
        faults: Faults { edits: 1, ticks: 2, ..NONE },
        ..Size::SIGNED
    };

    /// Two controllers, one of which dies, and a late write between an approval and what begins by it. Also
    /// the author approves.
    pub const SIGNED_LEADERS: Size = Size {
        name: "signed under two leaders",
        leaders: 2,
        devices: 1,
        faults: Faults {
            crashes: 1,
            delays: 1,
            withdrawals: 1,
            rejections: 1,
            own_words: 1,
            ..NONE
        },
        ..Size::SIGNED
    };

    /// What every change is searched with.
    pub const ALL: [Size; 15] = [
        Size::CALM,
        Size::LEADERS,
        Size::TAKE_OVERS,
        Size::DEADLINES,
        Size::HALT,
        Size::RETRIES,
        Size::STAGES,
        Size::STOPS,
        Size::WINDOWS,
        Size::GATES,
        Size::GATE_HALTS,
        Size::SIGNED,
        Size::UNANSWERED,
        Size::EXPIRING,
        Size::SIGNED_LEADERS,
    ];

    /// What takes minutes: the same with restarts, with two controllers, and with more faults.
    pub const LARGE: [Size; 7] = [
        Size {
            name: "signed, and by authors",
            faults: Faults { own_words: 1, ..Size::SIGNED.faults },
            ..Size::SIGNED
        },
        Size::OLD_ANSWERS,
        Size { name: "deadlines with restarts", restarts: true, ..Size::DEADLINES },
        Size {
            name: "halt with a crash",
            faults: Faults { crashes: 1, ..Size::HALT.faults },
            ..Size::HALT
        },
        Size { name: "leaders with restarts", restarts: true, ..Size::LEADERS },
        Size {
            name: "leaders under deadlines",
            leaders: 2,
            faults: Faults { crashes: 1, ..Size::DEADLINES.faults },
            ..Size::DEADLINES
        },
        Size {
            name: "stages with restarts",
            restarts: true,
            faults: Faults { freezes: 1, ..Size::STAGES.faults },
            ..Size::STAGES
        },
    ];

    /// Too large to be searched: three stages, everything goes wrong, and more than once.
    pub const HUGE: Size = Size {
        name: "huge",
        stages: 3,
        devices: 3,
        leaders: 2,
        cap: 2,
        attempts: 2,
        deadline: 2,
        restarts: true,
        gates: Gates::NONE,
        window: false,
        approval: None,
        patient: false,
        faults: Faults {
            crashes: 3,
            depositions: 3,
            delays: 6,
            deletions: 3,
            freezes: 3,
            ticks: 4,
            failures: 2,
            ..NONE
        },
    };

    /// The same with five devices in each stage, and with everything that keeps devices back.
    pub const GUARDED: Size = Size {
        name: "guarded",
        devices: 5,
        deadline: 9,
        gates: Gates::ALL,
        window: true,
        faults: Faults { stops: 2, denials: 2, doubts: 4, ..Size::HUGE.faults },
        ..Size::HUGE
    };

    /// And with people who have to approve every stage. Nobody rejects: chance lets somebody do so at once.
    pub const GUARDED_BY_PEOPLE: Size = Size {
        name: "guarded by people",
        approval: Some(30),
        faults: Faults { withdrawals: 2, own_words: 2, edits: 2, ..Size::GUARDED.faults },
        ..Size::GUARDED
    };
}
