//! How large a model is: devices, stages, processes, and how often what may go wrong.

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
    /// `deviceDeadline`, in ticks; `startWithin` is one.
    pub deadline: u32,
    /// Whether an installation needs a restart, with its own permit.
    pub restarts: bool,
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

    /// What every change is searched with.
    pub const ALL: [Size; 7] = [
        Size::CALM,
        Size::LEADERS,
        Size::TAKE_OVERS,
        Size::DEADLINES,
        Size::HALT,
        Size::RETRIES,
        Size::STAGES,
    ];

    /// What takes minutes: the same with restarts, with two controllers, and with more faults.
    pub const LARGE: [Size; 5] = [
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
        faults: Faults {
            crashes: 3,
            depositions: 3,
            delays: 6,
            deletions: 3,
            freezes: 3,
            ticks: 4,
            failures: 2,
        },
    };
}
